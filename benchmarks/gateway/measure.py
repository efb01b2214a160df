"""The measurements: one load after the other on every target in turn, CPU time read before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.load import Load, Loaded, LoadError, chat_request
from benchmarks.gateway.machine import others_seconds
from benchmarks.gateway.processes import Running
from benchmarks.gateway.results import (
    CPU_EVENT,
    CPU_LARGE,
    CPU_REQUEST,
    CPU_UNPACED,
    ITL,
    MEMORY,
    MEMORY_STREAMS,
    P50,
    P99,
    RATE,
    TTFT,
    Row,
)

STREAMS = 64
PACE = 100  # events per second and stream
OPEN_STREAMS = 1000
DISTURBED = 0.1  # cores that others keep busy, above which a load is repeated
_FAILURES = 0.001  # share of failed requests above which what the rest cost says nothing
_HOLD_EVENTS = 64  # of each open stream, before memory is read
_HOLD_PACE = 20
_QUIET = 0.5  # seconds over which others are watched


@dataclass(frozen=True)
class Plan:
    """How long everything takes. Times in seconds.

    Attributes:
        repeats: of the whole.
        slices: times that each load with requests of 1 KB is put on in one repeat. What else a machine does comes and
            goes in seconds: the more often targets take turns, the more equally it hits them.
        many: load with 64 connections.
        one: load with 1 connection.
        some: load with 32 connections.
        large: load with bodies of 32 KB.
        paced: streams at a pace.
        unpaced: events of each stream without a pace.
        holds: repeats in which memory with open streams is read.
        limit: after which a single load is broken off; longer for what takes long by itself.
        spare: in all, for waiting until others let the machine alone and for repeating what they disturbed.
    """

    repeats: int
    slices: int
    many: float
    one: float
    some: float
    large: float
    paced: float
    unpaced: int
    holds: int
    limit: float
    spare: float


FULL = Plan(
    3,
    slices=3,
    many=1.0,
    one=0.7,
    some=0.7,
    large=2.0,
    paced=5.0,
    unpaced=2000,
    holds=3,
    limit=10.0,
    spare=900.0,
)
QUICK = Plan(
    3,
    slices=3,
    many=0.7,
    one=0.3,
    some=0.3,
    large=1.0,
    paced=2.2,
    unpaced=1000,
    holds=1,
    limit=8.0,
    spare=15.0,
)


@dataclass
class Subject:
    """A target that is up.

    Attributes:
        row: where samples go.
        port: where it listens.
        running: its processes; None for the engines themselves.
        load: the load generator, on the right cores for it.
        worker: where samples of Shoal's worker alone go.
    """

    row: Row
    port: int
    running: Running | None
    load: Load
    worker: Row | None = None

    def gone(self) -> bool:
        """Return whether its process has ended, and note it."""
        if self.running is None or not self.running.ended():
            return False
        self.row.problem(f"ended while it was measured: {self.running.last_words()}")
        return True

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds it has used: the whole tree, and Shoal's worker alone."""
        if self.running is None:
            return 0.0, 0.0
        return self.running.usage().cpu, self.running.worker_usage().cpu if self.worker else 0.0

    def add_memory(self, key: str) -> None:
        """Add a sample of what it has resident."""
        if self.running is not None:
            self.row.add({key: self.running.usage().memory / 1e6})
            if self.worker is not None:
                self.worker.add({key: self.running.worker_usage().memory / 1e6})


@dataclass(frozen=True)
class Work:
    """One kind of load.

    Attributes:
        title: for people.
        send: puts it on a target.
        values: metrics that are in its result.
        cost: key of the metric for CPU time, None when it is not of interest.
        count: what CPU time is divided by.
    """

    title: str
    send: Callable[[Subject], Loaded]
    values: Callable[[Loaded], dict[str, float]] = lambda _: {}
    cost: str | None = None
    count: Callable[[Loaded], int] = lambda loaded: loaded.completed


@dataclass(frozen=True)
class Sample:
    """What one load on one target gave.

    Attributes:
        values: by metric, of the target.
        worker: by metric, of Shoal's worker alone.
        others: cores that processes which are no part of the test kept busy meanwhile.
    """

    values: dict[str, float]
    worker: dict[str, float]
    others: float


@dataclass
class Bench:
    """Measures targets.

    Args:
        plan: how long.
        directory: for request files.
        progress: is told what is going on.
        others: collects, for each load, how many cores processes that are no part of the test kept busy.
    """

    plan: Plan
    directory: Path
    progress: Callable[[str], None]
    others: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        paced = f"events={round(self.plan.paced * PACE)} rate={PACE} hold=0"
        self._spare = self.plan.spare
        self._small = self._request("1k", 1024)
        self._large = self._request("32k", 32 * 1024)
        self._paced = self._request("paced", 1024, paced)
        self._unpaced = self._request("unpaced", 1024, f"events={self.plan.unpaced} rate=0 hold=0")
        self._held = self._request("held", 1024, f"events={_HOLD_EVENTS + 1} rate={_HOLD_PACE} hold=1")

    def _request(self, name: str, size: int, stream: str | None = None) -> Path:
        file = self.directory / f"request-{name}"
        file.write_bytes(chat_request(size, stream))
        return file

    def _requests(self, connections: int, seconds: float, request: Path) -> Callable[[Subject], Loaded]:
        limit = seconds + self.plan.limit
        return lambda s: s.load.requests(s.port, request, connections, seconds, limit)

    def _streams(self, request: Path, stagger: int, limit: float) -> Callable[[Subject], Loaded]:
        return lambda s: s.load.streams(s.port, request, STREAMS, stagger, limit)

    def works(self) -> list[Work]:
        """Return the loads of one repeat."""
        plan = self.plan
        stagger = round(1e6 / PACE * (1 + 1 / STREAMS))  # one after the other, and out of step
        small = [
            Work(
                "requests, 64 connections",
                self._requests(STREAMS, plan.many, self._small),
                lambda loaded: {RATE.key: loaded.completed / loaded.seconds},
                CPU_REQUEST.key,
            ),
            Work(
                "requests, 1 connection",
                self._requests(1, plan.one, self._small),
                lambda loaded: {P50.key: loaded.p50, "p99_1": loaded.p99},
            ),
            Work(
                "requests, 32 connections",
                self._requests(32, plan.some, self._small),
                lambda loaded: {P99.key: loaded.p99, "p50_32": loaded.p50},
            ),
        ]
        return [
            *small * plan.slices,
            Work("requests of 32 KB", self._requests(STREAMS, plan.large, self._large), cost=CPU_LARGE.key),
            Work(
                "paced streams",
                self._streams(self._paced, stagger, plan.paced + plan.limit / 2),
                lambda loaded: {TTFT.key: loaded.p50, "ttft_p99": loaded.p99, ITL.key: loaded.gap_p99},
                CPU_EVENT.key,
                lambda loaded: loaded.events,
            ),
            Work(
                "unpaced streams",
                self._streams(self._unpaced, 0, plan.limit),
                cost=CPU_UNPACED.key,
                count=lambda loaded: loaded.events,
            ),
        ]

    def run(self, subjects: Sequence[Subject]) -> None:
        """Measure `subjects`: a load on all of them in turn, then the next; who comes first changes."""
        for subject in subjects:
            self.progress(f"warming up: {subject.row.name}")
            self._warm_up(subject)
        for repeat in range(self.plan.repeats):
            shift = repeat % max(1, len(subjects))
            order = [*subjects[shift:], *subjects[:shift]]
            where = f"repeat {repeat + 1} of {self.plan.repeats}"
            for work in self.works():
                for subject in order:
                    self._measure(subject, work, f"{where}, {work.title}: {subject.row.name}")
            if repeat < self.plan.holds:
                for subject in order:
                    self.progress(f"{where}, {OPEN_STREAMS:,} open streams: {subject.row.name}")
                    self._hold(subject)

    def _warm_up(self, subject: Subject) -> None:
        """Have it open connections and load code: what happens once is not measured. Then read the memory at rest."""
        subject.load.requests(subject.port, self._small, STREAMS, 0.5, self.plan.limit)
        if not subject.gone():
            subject.add_memory(MEMORY.key)

    def _measure(self, subject: Subject, work: Work, title: str) -> None:
        """Take one sample, again when others disturbed it and there is time to spare; the least disturbed counts."""
        best: Sample | None = None
        while True:
            self.progress(title)
            begun = time.monotonic()
            try:
                sample = None if subject.gone() else take(subject, work)
            except LoadError as error:
                subject.row.problem(f"{work.title}: {error}")
                return
            if sample is None:
                return
            if best is None or sample.others < best.others:
                best = sample
            if best.others <= DISTURBED:
                break
            self._spare -= time.monotonic() - begun
            self._wait_for_quiet(f"waiting until nothing else runs: {title}")
            if self._spare <= 0:
                break
        subject.row.add(best.values)
        if subject.worker is not None:
            subject.worker.add(best.worker)
        self.others.append(best.others)

    def _wait_for_quiet(self, title: str) -> None:
        self.progress(title)
        while self._spare > 0:
            before, begun = others_seconds(), time.monotonic()
            time.sleep(_QUIET)
            passed = time.monotonic() - begun
            self._spare -= passed
            if (others_seconds() - before) / passed <= DISTURBED:
                return

    def _hold(self, subject: Subject) -> None:
        """Read the memory with 1,000 streams open, each of which has had some events."""
        if subject.running is None or subject.gone():
            return
        limit = 2 * self.plan.limit
        with subject.load.hold(
            subject.port, self._held, OPEN_STREAMS, events=_HOLD_EVENTS, limit=limit
        ) as held:
            if held.open < OPEN_STREAMS or held.error:
                reason = held.error or f"{held.events:,} events in {limit:g} s"
                subject.row.problem(f"{held.open:,} of {OPEN_STREAMS:,} streams could be opened ({reason})")
            if held.open >= OPEN_STREAMS // 2:
                subject.add_memory(MEMORY_STREAMS.key)


def take(subject: Subject, work: Work) -> Sample | None:
    """Put a load on a target once; None, and a note in its row, when it did not do the work.

    Raises:
        LoadError: the load generator failed.
    """
    others, begun, (tree, worker) = others_seconds(), time.monotonic(), subject.cpu()
    loaded = work.send(subject)
    (tree_after, worker_after), passed = subject.cpu(), time.monotonic() - begun
    busy = max(0.0, others_seconds() - others) / passed
    if subject.gone():
        return None
    if loaded.failed:
        subject.row.problem(
            f"{work.title}: {loaded.failed:,} of {loaded.sent:,} requests failed: {loaded.error}"
        )
        if loaded.failed > _FAILURES * loaded.sent:
            return None
    if loaded.open:
        subject.row.problem(
            f"{work.title}: {loaded.open} of {loaded.sent} were unfinished after {loaded.seconds:.0f} s"
        )
    if not work.count(loaded):
        return None
    values, alone = work.values(loaded), {}
    if work.cost is not None and subject.running is not None:
        each = 1e6 / work.count(loaded)
        values = values | {work.cost: (tree_after - tree) * each}
        alone = {work.cost: (worker_after - worker) * each}
    return Sample(values, alone, busy)
