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
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shoal.config.schema import Config, Model, Node
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.engine_options import engine_options
from shoal.node.errors import StartError
from shoal.node.sizing import Engines, Known, engines_of
from shoal.node.split import Split, require_fitting, spanned, split_of


class Placement(msgspec.Struct, frozen=True):
    """One engine of a node.

    Attributes:
        id: unique on the node, ``model-0``.
        model: the model it serves.
        gpus: indices it may use; empty for none.
        why: why there, as a phrase.
        nodes: for one that spans nodes, their names by rank; empty for an engine on this node alone.
        rank: which of them this part is.
        split: how it is divided over them.
    """

    id: str
    model: Model
    gpus: tuple[int, ...] = ()
    why: str = ""
    nodes: tuple[str, ...] = ()
    rank: int = 0
    split: Split | None = None


def place(
    config: Config,
    node: Node,
    gpus: Sequence[Gpu],
    known: Mapping[str, Known] | None = None,
    models: Sequence[Model] | None = None,
    *,
    stands_for: str = "",
) -> tuple[Placement, ...]:
    """Return the engines `node` runs.

    Args:
        config: the configuration.
        node: one of its nodes.
        gpus: GPUs of this machine; those the node may use are chosen by its ``gpus``.
        known: by the name of a model its profile, or at least the bytes of its weights, where they are known.
        models: the models to run; by default those the file gives the node.
        stands_for: name of the node whose part in engines across nodes it takes; by default its own.

    Raises:
        StartError: the models do not share the node's GPUs as the file says, or one cannot be split over them, or its
            weights alone are larger; with what would work.
    """
    known = known or {}
    models = config.models_of(node) if models is None else models
    usable = _usable(node, gpus)
    across = {
        m.name: _Across(config.span_of(m), spanned(config, m, stands_for or node.name), known.get(m.name))
        for m in models
        if config.span_of(m) > 1
    }
    if not usable:
        return tuple(
            p
            for m in models
            for p in (
                _parts(m, [], across[m.name])
                if m.name in across
                else _engines(m, _without_gpus(m, "the node has no GPU"))
            )
        )
    placed: list[Placement] = []
    free = list(usable)
    exclusive = [m for m in models if not m.share_gpus and _gpus_per_engine(m, across) != 0]
    budgets = _budgets(exclusive, len(free), node, across)
    for model in models:
        if model not in exclusive:
            if model.name not in across:
                placed += _engines(model, _shared(model, usable))
            else:
                placed += _parts(model, usable if model.gpus_per_engine != 0 else [], across[model.name])
            continue
        mine, free = free[: budgets[model.name]], free[budgets[model.name] :]
        if model.name in across:
            placed += _parts(model, mine, across[model.name])
            continue
        placed += _engines(model, engines_of(model, engine_options(model), mine, known.get(model.name)))
    return tuple(placed)


class _Across(NamedTuple):
    """What a model's engines across nodes are on a node: see `split.spanned`."""

    span: int
    seat: tuple[tuple[str, ...], int] | None
    known: Known | None


def _parts(model: Model, gpus: Sequence[Gpu], across: _Across) -> list[Placement]:
    """Return this node's parts of engines that span nodes, none if it is left over."""
    if across.seat is None:
        return []
    count = model.engines_per_node or 1
    asked = model.gpus_per_engine
    have = min(len(gpus) // count, asked if asked is not None else len(gpus))
    return [
        part_of(model, i, gpus[i * have : (i + 1) * have], across.seat, across.known) for i in range(count)
    ]


def part_of(
    model: Model, number: int, gpus: Sequence[Gpu], seat: tuple[tuple[str, ...], int], known: Known | None
) -> Placement:
    """Return a node's part of an engine that spans nodes.

    Args:
        model: its model.
        number: of the engine, the same on all its nodes.
        gpus: those that the engine may have on this node.
        seat: its nodes by rank, and the rank of this one.
        known: what is known of the model.

    Raises:
        StartError: it cannot be divided so, or the weights alone are larger.
    """
    nodes, rank = seat
    profile = known if isinstance(known, Profile) and model.engine == "vllm" else None
    split = split_of(model, len(gpus), len(nodes), profile)
    chosen = gpus[: split.local]
    if model.engine == "vllm":
        require_fitting(model, split, chosen, profile)
    return Placement(
        id=f"{slug(model)}-{number}",
        model=model,
        gpus=tuple(g.index for g in chosen),
        why=f"part {rank + 1} of {len(nodes)} of an engine across nodes ({split})",
        nodes=nodes,
        rank=rank,
        split=split,
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


def _gpus_per_engine(model: Model, across: Collection[str] = ()) -> int | None:
    """Return the GPUs of each engine on a node, None where the file leaves them open."""
    if model.gpus_per_engine is not None or model.name in across:
        return model.gpus_per_engine
    return engine_options(model).gpus


def _budgets(models: Sequence[Model], have: int, node: Node, across: Collection[str] = ()) -> dict[str, int]:
    """Return how many GPUs each model gets: what it asks for, and equal shares of the rest."""
    fixed = {
        m.name: size * m.engines_per_node
        for m in models
        if m.engines_per_node and (size := _gpus_per_engine(m, across)) is not None
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
        need = fixed.get(model.name) or (_gpus_per_engine(model, across) or 1) * (model.engines_per_node or 1)
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
    return [Placement(f"{slug(model)}-{i}", model, chosen, why) for i, (chosen, why) in enumerate(engines)]


def slug(model: Model) -> str:
    """Return what the ids of a model's engines begin with."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)
