"""This node's parts in engines that span nodes: the I/O around `shoal.cluster.group`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from shoal.cluster.group import Seat
from shoal.cluster.group_types import GroupTimers, Here, Meeting, Place
from shoal.cluster.view import EngineReport, EngineState, Offer, SeatReport, SeatState, View
from shoal.engine.ports import NoFreePortError, Reservation, reserve
from shoal.engine.spec import EngineSpec, Part
from shoal.files import write_whole
from shoal.node.reconcile import Actual, Wanted


class PlannedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an engine across nodes that this node is to take.

    Attributes:
        spec: the engine as it would be started, all but `EngineSpec.part`.
        place: which part of which group.
        data: whether data parallel ranks have to meet as well.
        executor: what starts its processes.
    """

    spec: EngineSpec
    place: Place
    data: bool = False
    executor: str = "mp"


class PartSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all parts of a node.

    Attributes:
        node: the node's name.
        state_dir: its directory; the newest generation of each part is kept under ``groups/``.
        listen: numeric address that ports are held at.
        address: numeric address under which the processes on other nodes reach those on this one.
        interface: network interface that has it.
        advertised: numeric address under which other nodes reach this one.
        ports: first and last port for engines.
        timers: of the groups.
        finishes: what is no part of this node's any more finishes what it runs: nobody else is to have its place or
            its GPUs before that. Else it ends at once.
    """

    node: str
    state_dir: Path
    listen: str
    address: str
    interface: str
    advertised: str
    ports: tuple[int, int]
    timers: GroupTimers
    finishes: bool = False


class Parts:
    """All parts of this node.

    Args:
        settings: see there.
        say: gets a sentence for each decision.
    """

    def __init__(self, settings: PartSettings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._planned: Mapping[str, PlannedPart] = {}
        self._fingerprints: dict[str, str] = {}  # of those
        self._seats: dict[str, Seat] = {}
        self._meetings: dict[str, tuple[int, list[Reservation]]] = {}
        self._resumed: dict[str, Part] = {}

    def want(self, planned: Mapping[str, PlannedPart]) -> None:
        """Take these parts from now on. One that is in a generation of another group ends that first."""
        if planned is not self._planned:
            self._planned = planned
            self._fingerprints = {engine: part.spec.fingerprint() for engine, part in planned.items()}

    def resume(self, running: Mapping[str, tuple[Part, int]], now: float) -> None:
        """Take up the parts, before anybody is told of this node: what runs, its first heartbeat must say.

        Args:
            running: what an earlier process of this node left running, see `Engines.parts`.
            now: seconds on a steady clock, as in `step`.
        """
        self._resumed = {engine: part for engine, (part, _) in running.items()}
        for engine in self._planned:
            self._seat(engine, now)
        self._resumed = {}  # what of it is no part of this node's any more, the rules end

    # -- deciding

    def step(
        self,
        view: View,
        engines: Mapping[str, Actual],
        lifelines: Mapping[str, bool],
        now: float,
        *,
        leaving: bool,
    ) -> None:
        """Look at the cluster and at this node's engines, and go on with each part.

        Args:
            view: members and what they say.
            engines: this node's engines as they are.
            lifelines: see `Lifelines.answers`.
            now: seconds on a steady clock.
            leaving: this node is about to stop.
        """
        for engine in self._seats.keys() | self._planned.keys():
            seat = self._seat(engine, now)
            if seat is None:
                continue
            planned = self._planned.get(engine)
            mine = planned is not None and planned.place.group == seat.place.group
            here = self._here(seat, engines.get(engine), planned if mine else None, leaving or not mine)
            generation = seat.generation
            for sentence in seat.step(view, here, lifelines, now):
                self._say(sentence)
            if seat.generation != generation:
                self._remember(engine, seat)

    def _seat(self, engine: str, now: float) -> Seat | None:
        """Return the part of that engine; another one only when the former is free."""
        seat, planned = self._seats.get(engine), self._planned.get(engine)
        if seat is not None and planned is not None and seat.place == planned.place:
            return seat
        if seat is not None and seat.state is not SeatState.FREE:
            return seat
        if planned is None:
            self._seats.pop(engine, None)
            self._release(engine)
            return None
        place = planned.place
        known = self._recall(engine, place.group)
        seat = self._seats[engine] = Seat(self._settings.node, place, self._settings.timers, now, known)
        part = self._resumed.pop(engine, None)
        if part is not None and part.group == place.group and part.nodes[part.rank] == self._settings.node:
            terms = Offer(
                generation=part.generation,
                members=part.nodes,
                host=part.host,
                port=part.port,
                rpc_port=part.rpc_port,
                tokens=part.tokens,
            )
            seat.resume(terms, part.tokens[part.rank])
        return seat

    def _here(self, seat: Seat, engine: Actual | None, planned: PlannedPart | None, leaving: bool) -> Here:
        running = engine is not None and engine.running
        changed = planned is not None and engine is not None and bool(engine.fingerprint)
        return Here(
            running=engine.generation if running and engine is not None else 0,
            exit=None if engine is None else engine.over if running else engine.exit,
            ready=engine is not None and engine.state is EngineState.READY and not engine.follows,
            changed=(planned is None and not self._settings.finishes)
            or (
                changed
                and running
                and engine is not None
                and engine.fingerprint != self._fingerprints[seat.place.engine]
            ),
            leaving=leaving,
            unwanted=planned is None and self._settings.finishes,
            meeting=self._meeting(seat, planned) if planned is not None else None,
        )

    def _meeting(self, seat: Seat, planned: PlannedPart) -> Meeting | None:
        """Return where the next generation could meet: ports held until it is over, other ones than the last had."""
        if seat.place.rank != 0 or seat.state is not SeatState.FREE:
            return None
        engine = seat.place.engine
        held_for, held = self._meetings.get(engine, (-1, []))
        if held_for != seat.generation:
            try:
                new = self._reserve(f"{self._settings.node}/{engine}/{seat.generation + 1}", 1 + planned.data)
            except (NoFreePortError, OSError):
                return None
            self._release(engine)
            self._meetings[engine] = seat.generation, new
            held = new
        return Meeting(self._settings.address, held[0].port, held[1].port if planned.data else 0)

    def _reserve(self, key: str, count: int) -> list[Reservation]:
        held: list[Reservation] = []
        try:
            for i in range(count):
                reservation = reserve(self._settings.listen, *self._settings.ports, f"{key}/{i}")
                held.append(reservation)
        except (NoFreePortError, OSError):
            for reservation in held:
                reservation.release()
            raise
        return held

    def _release(self, engine: str) -> None:
        for reservation in self._meetings.pop(engine, (0, []))[1]:
            reservation.release()

    # -- what comes of it

    def wanted(self) -> dict[str, Wanted]:
        """Return the parts as the reconcile rules want them."""
        wanted = {}
        for engine, seat in self._seats.items():
            terms = seat.terms
            wanted[engine] = Wanted(
                id=engine,
                fingerprint=self._fingerprints.get(engine, ""),
                part=True,
                generation=terms.generation if terms is not None else 0,
                drain=seat.drains,
            )
        return wanted

    def specs(self) -> dict[str, EngineSpec]:
        """Return how to start the parts that should run now."""
        found = {}
        for engine, seat in self._seats.items():
            terms, planned = seat.terms, self._planned.get(engine)
            if terms is not None and planned is not None:
                part = Part(
                    group=seat.place.group,
                    generation=terms.generation,
                    nodes=terms.members,
                    rank=seat.place.rank,
                    host=terms.host,
                    port=terms.port,
                    rpc_port=terms.rpc_port,
                    tokens=terms.tokens,
                    address=self._settings.address,
                    interface=self._settings.interface,
                    executor=planned.executor,
                )
                found[engine] = msgspec.structs.replace(planned.spec, part=part)
        return found

    def seats(self, running: Mapping[str, tuple[Part, int]]) -> tuple[SeatReport, ...]:
        """Return what the other nodes are told of the parts, in order of id; `running`: see `Engines.parts`."""
        return tuple(
            seat.report(self._settings.advertised, running[engine][1] if engine in running else 0)
            for engine, seat in sorted(self._seats.items())
        )

    def shown(self, engines: Sequence[EngineReport]) -> tuple[EngineReport, ...]:
        """Return the reports of this node's engines with those of engines that it leads and that do not run.

        Their detail is what the group waits for.
        """
        reports = {e.id: e for e in engines}
        for engine, seat in self._seats.items():
            if seat.place.rank != 0 or seat.state is SeatState.RUNNING:
                continue
            known = reports.get(engine)
            if known is None:
                planned = self._planned.get(engine)
                kind = planned.spec.kind if planned is not None else "vllm"
                known = EngineReport(
                    id=engine,
                    model=seat.place.model,
                    kind=kind,
                    state=EngineState.WAITING,
                    host=self._settings.advertised,
                )
            reports[engine] = msgspec.structs.replace(known, detail=seat.waits or seat.reason or known.detail)
        return tuple(reports[engine] for engine in sorted(reports))

    def follows(self) -> bool:
        """Return whether some engine that another node leads needs this one."""
        return any(s.state is SeatState.RUNNING and s.offer is None for s in self._seats.values())

    # -- the newest generation, for the next process of this node

    def _file(self, engine: str) -> Path:
        return self._settings.state_dir / "groups" / f"{quote(engine, safe='')}.json"

    def _remember(self, engine: str, seat: Seat) -> None:
        """Write down what was joined. Losing the note costs nothing while the others remember, so errors are let be."""
        path = self._file(engine)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({seat.place.group: seat.generation}).encode())

    def _recall(self, engine: str, group: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return int(json.loads(self._file(engine).read_text()).get(group, 0))
        return 0
