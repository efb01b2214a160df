"""Which engines run on a node and on which of its GPUs. Pure: configuration and hardware in, engines out.

The placement hint of a model, ``type``, means:

=========== =============================== ==================
type        with GPUs                       without GPUs
=========== =============================== ==================
small       one engine per GPU              one engine
medium      one engine per GPU              one engine
large       one engine over all GPUs        one engine
xlarge      one engine across nodes (one node: as large)
auto        small if one GPU holds it, else large
=========== =============================== ==================
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from shoal.config.schema import Config, Model, Node
from shoal.engine.command import cli_args, option
from shoal.engine.gpu import Gpu
from shoal.node.errors import StartError

# What an engine needs beside its weights on a GPU: activations, CUDA graphs and a useful KV cache. A hint for
# `type: auto` only; vLLM itself says whether a model really fits.
_MEMORY_FACTOR = 1.3
_MEMORY_FIXED = 2 * 1024**3

_PARALLEL = (("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp"))


class Placement(msgspec.Struct, frozen=True):
    """One engine of a node.

    Attributes:
        id: unique on the node, ``model-0``.
        model: the model it serves.
        gpus: indices it may use; empty for none.
    """

    id: str
    model: Model
    gpus: tuple[int, ...] = ()


def place(
    config: Config,
    node: Node,
    gpus: Sequence[Gpu],
    weights: Mapping[str, int] | None = None,
    models: Sequence[Model] | None = None,
) -> tuple[Placement, ...]:
    """Return the engines `node` runs.

    Args:
        config: the configuration.
        node: one of its nodes.
        gpus: GPUs of this machine; those the node may use are chosen by its ``gpus``.
        weights: bytes of each model's weights by model name, where known (for ``type: auto``).
        models: the models to run; by default those the file gives the node.

    Raises:
        StartError: the models do not share the node's GPUs as the file says, with what would.
    """
    models = config.models_of(node) if models is None else models
    _refuse_groups(config, models)
    usable = _usable(node, gpus)
    if not usable:
        return tuple(p for m in models for p in _engines(m, [()] * (m.engines_per_node or 1)))
    placed: list[Placement] = []
    free = [g.index for g in usable]
    exclusive = [m for m in models if not m.share_gpus and _gpus_per_engine(m) != 0]
    budgets = _budgets(exclusive, len(free), node)
    for model in models:
        if model not in exclusive:
            placed += _engines(model, _shared(model, [g.index for g in usable]))
            continue
        mine, free = free[: budgets[model.name]], free[budgets[model.name] :]
        size = _size_of_engine(model, len(mine), usable, (weights or {}).get(model.name))
        count = model.engines_per_node or len(mine) // size
        placed += _engines(model, [tuple(mine[i * size : (i + 1) * size]) for i in range(count)])
    return tuple(placed)


def _refuse_groups(config: Config, models: Sequence[Model]) -> None:
    serving = sum(n.role == "serve" for n in config.nodes)
    for model in models:
        if model.type == "xlarge" and serving > 1:
            raise StartError(
                f"model {model.name} has type xlarge, one engine across nodes: this release runs an engine on one "
                "node only (groups come with 0.3). Use `type: large` for one engine per node over all its GPUs."
            )


def _usable(node: Node, gpus: Sequence[Gpu]) -> list[Gpu]:
    if node.gpus is None:
        return list(gpus)
    known = {g.index: g for g in gpus}
    missing = [i for i in node.gpus if i not in known]
    if missing:
        have = ", ".join(map(str, sorted(known))) or "none"
        raise StartError(
            f"node {node.name} names GPU {missing[0]}, this machine has: {have}. Correct `gpus`."
        )
    return [known[i] for i in node.gpus]


def parallel_size(model: Model) -> int | None:
    """Return how many GPUs the user's own parallel arguments ask for, None when they say nothing."""
    words = cli_args(model.args)
    sizes = [option(words, *names) for names in _PARALLEL]
    if sizes == [None, None]:
        return None
    return math.prod(int(s) if s and s.isdecimal() else 1 for s in sizes)


def _gpus_per_engine(model: Model) -> int | None:
    return model.gpus_per_engine if model.gpus_per_engine is not None else parallel_size(model)


def _budgets(models: Sequence[Model], have: int, node: Node) -> dict[str, int]:
    """Return how many GPUs each model gets: what it asks for, and equal shares of the rest."""
    fixed = {
        m.name: size * m.engines_per_node
        for m in models
        if m.engines_per_node and (size := _gpus_per_engine(m)) is not None
    }
    # A kind that spreads over one GPU per engine asks for as many GPUs as engines.
    fixed |= {
        m.name: m.engines_per_node
        for m in models
        if m.name not in fixed and m.engines_per_node and m.type in ("small", "medium")
    }
    open_ = [m for m in models if m.name not in fixed]
    rest = have - sum(fixed.values())
    shares = {m.name: rest // len(open_) + (i < rest % len(open_)) for i, m in enumerate(open_)}
    for model in models:
        need = fixed.get(model.name) or (_gpus_per_engine(model) or 1) * (model.engines_per_node or 1)
        if rest < 0 or (fixed | shares)[model.name] < need:
            raise StartError(
                f"node {node.name} has {have} GPU{'s' * (have != 1)}, its models need more: {model.name} asks for "
                f"{need}. Lower `engines_per_node` or `gpus_per_engine`, name other `nodes` for a model, or allow "
                "sharing with `share_gpus: true`."
            )
    return fixed | shares


def _size_of_engine(model: Model, budget: int, gpus: Sequence[Gpu], weights: int | None) -> int:
    asked = _gpus_per_engine(model)
    if asked:
        return asked
    if model.engines_per_node:
        return budget // model.engines_per_node
    if model.type in ("small", "medium"):
        return 1
    if model.type == "auto" and weights is not None:
        # A chip that shares the machine's memory tells none: vLLM will say whether the model fits.
        smallest = min((g.total for g in gpus if g.total is not None), default=math.inf)
        if weights * _MEMORY_FACTOR + _MEMORY_FIXED <= smallest:
            return 1
    return budget


def _shared(model: Model, gpus: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the GPUs of each engine of a model that takes no GPU for itself alone: in turn over all of them."""
    size = _gpus_per_engine(model)
    if size == 0:
        return [()] * (model.engines_per_node or 1)
    size = min(size or 1, len(gpus))
    count = model.engines_per_node or len(gpus) // size
    return [tuple(gpus[(i * size + j) % len(gpus)] for j in range(size)) for i in range(count)]


def _engines(model: Model, gpus: Sequence[tuple[int, ...]]) -> list[Placement]:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)
    return [Placement(f"{slug}-{i}", model, chosen) for i, chosen in enumerate(gpus)]
