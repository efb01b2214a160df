"""What a plan says of engines that span nodes as a whole. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shoal.config.schema import Config
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.hardware import NodeHardware
from shoal.node.plan_types import PlannedEngine, PlannedNode, Refusal
from shoal.node.units import gb


class PlanInput(msgspec.Struct, frozen=True):
    """All that a plan is made from.

    Attributes:
        config: the configuration.
        hardware: the machine of each node that may run engines, by the node's name.
        profiles: what is known of each model, by name.
        unknown: why nothing is known of the others, by name.
    """

    config: Config
    hardware: Mapping[str, NodeHardware]
    profiles: Mapping[str, Profile]
    unknown: Mapping[str, str] = {}


def unlike(given: PlanInput, nodes: Sequence[PlannedNode]) -> Iterator[Refusal]:
    """Yield engines across nodes whose parts differ: what the slowest or smallest has, all would have."""
    parts: dict[tuple[tuple[str, ...], str], dict[str, PlannedEngine]] = {}
    for node in nodes:
        for engine in node.engines:
            if engine.nodes and not engine.covers:
                parts.setdefault((engine.nodes, engine.id), {})[node.name] = engine
    for (names, _), found in parts.items():
        kinds = {name: _kind(given, name, found[name]) for name in names if name in found}
        if len(set(kinds.values())) < 2:
            continue
        common, count = Counter(kinds.values()).most_common(1)[0]
        equal = [name for name, kind in kinds.items() if kind == common]
        told = ", ".join(f"{name} has {kind}" for name, kind in kinds.items())
        model = next(iter(found.values())).model
        yield Refusal(
            nodes=names,
            by="shoal",
            sentence=f"model {model}: an engine would span unequal nodes: {told}. All parts are used only as far as "
            "the smallest",
            nearest=(
                f"`nodes: [{', '.join(equal)}]` for the model, so that it spans equal ones"
                if count > 1
                else "`type: large`, an engine on each node by itself",
                "`gpus` for each node, so that all give as many of one kind",
            ),
        )


def _kind(given: PlanInput, node: str, engine: PlannedEngine) -> str:
    gpus = [g for g in given.hardware[node].gpus if g.index in engine.gpus]
    split = f", tensor parallel {engine.tensor}, pipeline parallel {engine.stages}" if gpus else ""
    return gpus_in_words(gpus) + split if gpus else "no GPU"


def left_over(given: PlanInput) -> Iterator[str]:
    """Tell of nodes that have no part in a model's engines because these span several."""
    for model in given.config.models:
        span = given.config.span_of(model)
        names = [n.name for n in given.config.nodes_of(model)]
        left = names[len(names) // span * span :]
        if left:
            yield (
                f"Model {model.name}: each engine spans {span} nodes, so {', '.join(left)} "
                f"{'have' if len(left) > 1 else 'has'} no part in one."
            )


def gpus_in_words(gpus: Sequence[Gpu]) -> str:
    """Return GPUs as people write them: ``8 x NVIDIA H100 (85.5 GB)``."""
    counted = Counter((g.name, g.total) for g in gpus)
    return ", ".join(
        f"{f'{count} x ' if count > 1 else ''}{name}{f' ({gb(total)})' if total else ''}"
        for (name, total), count in counted.items()
    )
