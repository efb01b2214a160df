"""Which engines run on a node and on which of its GPUs. Pure: configuration and hardware in, engines out.

The placement hint of a model, ``type``, means:

=========== =============================== ==================
type        with GPUs                       without GPUs
=========== =============================== ==================
small       one engine per GPU              one engine
medium      one engine per GPU              one engine
large       one engine over all GPUs        one engine
xlarge      one engine across nodes (one node: as large)
auto        engines on the fewest GPUs that one engine
            hold it, as many as there is
            room for
=========== =============================== ==================

`shoal plan` and `shoal serve` both ask here, so that the one tells what the other does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from shoal.config.schema import Config, Model, Node
from shoal.engine.gpu import Gpu
from shoal.node.engine_options import engine_options
from shoal.node.errors import GroupError, StartError
from shoal.node.sizing import Engines, Known, engines_of


class Placement(msgspec.Struct, frozen=True):
    """One engine of a node.

    Attributes:
        id: unique on the node, ``model-0``.
        model: the model it serves.
        gpus: indices it may use; empty for none.
        why: why there, as a phrase.
    """

    id: str
    model: Model
    gpus: tuple[int, ...] = ()
    why: str = ""


def place(
    config: Config,
    node: Node,
    gpus: Sequence[Gpu],
    known: Mapping[str, Known] | None = None,
    models: Sequence[Model] | None = None,
) -> tuple[Placement, ...]:
    """Return the engines `node` runs.

    Args:
        config: the configuration.
        node: one of its nodes.
        gpus: GPUs of this machine; those the node may use are chosen by its ``gpus``.
        known: by the name of a model its profile, or at least the bytes of its weights, where they are known.
        models: the models to run; by default those the file gives the node.

    Raises:
        StartError: the models do not share the node's GPUs as the file says, or one cannot be split over them, or its
            weights alone are larger; with what would work.
    """
    known = known or {}
    models = config.models_of(node) if models is None else models
    _refuse_groups(config, models)
    usable = _usable(node, gpus)
    if not usable:
        return tuple(p for m in models for p in _engines(m, _without_gpus(m, "the node has no GPU")))
    placed: list[Placement] = []
    free = list(usable)
    exclusive = [m for m in models if not m.share_gpus and _gpus_per_engine(m) != 0]
    budgets = _budgets(exclusive, len(free), node)
    for model in models:
        if model not in exclusive:
            placed += _engines(model, _shared(model, usable))
            continue
        mine, free = free[: budgets[model.name]], free[budgets[model.name] :]
        placed += _engines(model, engines_of(model, engine_options(model), mine, known.get(model.name)))
    return tuple(placed)


def _refuse_groups(config: Config, models: Sequence[Model]) -> None:
    serving = sum(n.role == "serve" for n in config.nodes)
    for model in models:
        if model.type == "xlarge" and serving > 1:
            raise GroupError(
                f"model {model.name} has type xlarge, one engine across nodes: this release runs an engine on one "
                "node only (groups come with 0.3). Use `type: large` for one engine per node over all its GPUs.",
                model.name,
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


def _gpus_per_engine(model: Model) -> int | None:
    return model.gpus_per_engine if model.gpus_per_engine is not None else engine_options(model).gpus


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


def _without_gpus(model: Model, why: str) -> Engines:
    return [((), why)] * (model.engines_per_node or 1)


def _shared(model: Model, gpus: Sequence[Gpu]) -> Engines:
    """Return the GPUs of each engine of a model that takes no GPU for itself alone: in turn over all of them."""
    size = _gpus_per_engine(model)
    if size == 0:
        return _without_gpus(model, "gpus_per_engine: 0")
    size = min(size or 1, len(gpus))
    count = model.engines_per_node or len(gpus) // size
    return [
        (
            tuple(gpus[(i * size + j) % len(gpus)].index for j in range(size)),
            "share_gpus: in turn over all GPUs",
        )
        for i in range(count)
    ]


def _engines(model: Model, engines: Engines) -> list[Placement]:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)
    return [Placement(f"{slug}-{i}", model, chosen, why) for i, (chosen, why) in enumerate(engines)]
