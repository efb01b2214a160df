"""Which engines a node runs where the file does not say it: on Ray a controller allots them (docs/ray.md).

The allotment lies in the node's state directory: a node process that is started again runs the same engines, whether
anybody tells it or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shoal.cluster.view import MemberState, SeatState, View
from shoal.config.schema import Config, Model
from shoal.engine.gpu import Gpu
from shoal.files import write_whole
from shoal.gateway.outcomes import FIRST_EVENT, Outcome
from shoal.node.engine_options import engine_options
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.orders import Handler, RefusedError, text_of
from shoal.node.placement import Placement, part_of, slug
from shoal.node.sizing import Known
from shoal.node.split import split_of

ALLOTMENT, FORGET = "/shoal/v1/allotment", "/shoal/v1/nodes/forget"

_FILE = "allotted.json"


class Seat(msgspec.Struct, frozen=True):
    """One engine that a node is to run, or its part in one that spans nodes.

    Attributes:
        replica: which of the cluster's engines of the model it is, such as ``chat/2``.
        gpus: indices of its GPUs on the node.
        nodes: names of the nodes by rank, of an engine that spans several; empty for one on this node alone.
        rank: which part of it this is.
    """

    replica: str
    gpus: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    rank: int = 0


Allotted = dict[str, dict[int, Seat]]
"""By model and number of the engine: ``chat-0`` is number 0. One that spans nodes has the same on all of them."""


def read(state_dir: Path) -> Allotted:
    """Return what was allotted last, nothing where nothing (usable) is on disk."""
    try:
        return msgspec.json.decode((state_dir / _FILE).read_bytes(), type=Allotted)
    except (OSError, msgspec.MsgspecError):
        return {}


def write(state_dir: Path, allotted: Allotted) -> None:
    """Remember an allotment.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(state_dir / _FILE, msgspec.json.encode(allotted), sync=True)


def placements(
    config: Config,
    models: Iterable[Model],
    allotted: Allotted,
    gpus: Sequence[Gpu],
    known: Mapping[str, Known] | None = None,
) -> tuple[Placement, ...]:
    """Return the engines that are allotted to a node.

    Args:
        config: the configuration.
        models: its models that the node may run; what is allotted of others is passed over, and so are engines over
            as many nodes as they are to have no more: the controller is about to replace these.
        allotted: the allotment.
        gpus: that the node has.
        known: by the name of a model its profile, or at least the bytes of its weights, where they are known.

    Raises:
        StartError: an engine is to have a GPU that is not there, or cannot be divided over its nodes.
    """
    require_divisible(config)
    have = {gpu.index: gpu for gpu in gpus}
    placed = []
    for model in models:
        for number, seat in sorted(allotted.get(model.name, {}).items()):
            if max(1, len(seat.nodes)) != config.span_of(model):
                continue
            engine = f"{slug(model)}-{number}"
            if missing := set(seat.gpus) - have.keys():
                raise StartError(
                    f"Ray gave engine {engine} GPU {min(missing)}, which this machine does not have: it has "
                    f"{sorted(have) or 'none'}. Start Ray there with the number of its GPUs (`ray start --num-gpus`)."
                )
            if seat.nodes:
                mine = [have[index] for index in seat.gpus]
                told = (known or {}).get(model.name)
                placed.append(part_of(model, number, mine, (seat.nodes, seat.rank), told))
            else:
                placed.append(Placement(engine, model, seat.gpus, f"allotted as {seat.replica}"))
    return tuple(placed)


def require_divisible(config: Config) -> None:
    """Refuse engines across nodes that do not divide over as many nodes, before anything is started for them.

    Raises:
        StartError: a model's do not, with what works.
    """
    for model in config.models:
        if (span := config.span_of(model)) > 1:
            split_of(model, gpus_asked(model, span) or 0, span, None)


def gpus_asked(model: Model, span: int = 1) -> int | None:
    """Return how many GPUs each engine of a model needs on each of its nodes, None where its settings do not say.

    Args:
        model: the model.
        span: nodes of each engine.
    """
    options = engine_options(model)
    if model.gpus_per_engine is not None or options.gpus is None:
        return model.gpus_per_engine
    if span == 1:
        return options.gpus
    # As they are divided where nothing else is said: a stage on each node, and data parallel ranks over all of them.
    stages = options.stages or (span if options.data == 1 else 1)
    return -(-(options.tensor or 1) * stages * options.data // span)


class Allotment:
    """What the controller tells this node, and asks it.

    Args:
        node: the node's name.
        state_dir: its directory.
        config: returns the configuration.
        view: returns members and engines.
        outcomes: returns (model, engine, what became of requests).
        events: gets a sentence for each change.
        busy: returns whether engines are being replaced by another configuration just now.
        on_change: called with another allotment.
        forget: called with the name of a node that is gone for good.
    """

    def __init__(
        self,
        node: str,
        state_dir: Path,
        *,
        config: Callable[[], Config],
        view: Callable[[], View],
        outcomes: Callable[[], Sequence[tuple[str, str, Outcome]]],
        events: Events,
        busy: Callable[[], bool],
        on_change: Callable[[Allotted], None],
        forget: Callable[[str], None],
    ) -> None:
        self._node = node
        self._state_dir = state_dir
        self._config = config
        self._view = view
        self._outcomes = outcomes
        self._events = events
        self._busy = busy
        self._on_change = on_change
        self._forget = forget
        self._allotted = read(state_dir)

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what takes the orders, by method and path; none where no controller has a say."""
        if self._config().cluster.substrate != "ray":
            return {}
        return {
            ("POST", ALLOTMENT): self._allot,
            ("GET", ALLOTMENT): self._tell,
            ("POST", FORGET): self._forget_node,
        }

    async def _allot(self, arguments: Mapping[str, Any]) -> Any:
        try:
            # Keys of JSON are texts; msgspec makes numbers of them when it reads JSON, and only then.
            text = json.dumps(arguments.get("engines"))
            allotted = msgspec.json.decode(text, type=Allotted)
            sentences = msgspec.convert(arguments.get("say", []), list[str])
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise RefusedError(f"that is no allotment: {error}", 400) from None
        for sentence in sentences:
            self._events.add(sentence)
        if allotted == self._allotted:
            return {}
        if self._busy():
            raise RefusedError("another configuration is being applied")
        try:
            write(self._state_dir, allotted)
        except OSError as error:
            raise RefusedError(f"the allotment cannot be written: {error}", 500) from error
        self._allotted = allotted
        self._on_change(allotted)
        return {}

    async def _tell(self, _: Mapping[str, Any]) -> Any:
        """Return what the controller has to know of this node, and of the others as this one sees them."""
        config, view = self._config(), self._view()
        me = view.member(self._node)
        report = me.report if me is not None else None
        first: dict[str, list[int]] = {}
        for model, engine, outcome in self._outcomes():
            if engine and model:
                former = first.setdefault(model, [0] * (len(FIRST_EVENT) + 1))
                first[model] = [a + b for a, b in zip(former, outcome.first.counts, strict=True)]
        return {
            "node": self._node,
            "generation": report.generation if report is not None else 0,
            "models": [
                {
                    "name": model.name,
                    "replicas": model.replicas.model_dump(),
                    "engines_per_node": model.engines_per_node or 1,
                    "span": config.span_of(model),
                    "gpus": gpus_asked(model, config.span_of(model)),
                    "kind": model.engine,
                }
                for model in config.models
                if model.engine != "external"
            ],
            "release_after": config.cluster.release_after,
            "allotted": msgspec.to_builtins(self._allotted, str_keys=True),
            "engines": [
                {
                    "id": e.id,
                    "model": e.model,
                    "state": str(e.state),
                    "running": e.running,
                    "waiting": e.waiting,
                    "capacity": e.capacity,
                }
                for e in (report.engines if report is not None else ())
            ],
            "parts": [
                {"id": s.engine, "model": s.model, "state": str(s.state)}
                for s in (report.seats if report is not None else ())
                if s.state is not SeatState.FREE
            ],
            "waiting": {m: w.requests for m, w in report.waiting.items()} if report is not None else {},
            "first": first,
            "members": {m.name: str(m.state) for m in view.members},
        }

    async def _forget_node(self, arguments: Mapping[str, Any]) -> Any:
        name = text_of(arguments, "node")
        member = self._view().member(name)
        if member is None:
            return {}
        if member.is_self or member.state in (MemberState.ALIVE, MemberState.SUSPECT):
            raise RefusedError(f"node {name} is {member.state}: it can be told to leave")
        self._forget(name)
        return {}
