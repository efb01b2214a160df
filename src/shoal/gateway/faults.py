"""What a worker remembers about engines that fail: whom to try last, and what to tell the node process.

An engine is *ejected*, which means tried last, at once when it does not accept a connection, and when about half of
its latest requests failed after they had reached it: reset, cut short, stalled, answered by a dead core. What it
answers (4xx, 429, 503) is no fault. Each ejection takes twice as long as the one before. When its time is over the
engine comes back *half-open*: one request tries it, and only when that one succeeds the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.gateway.messages import EngineFault

AVOID_FIRST = 1.0
"""Seconds an engine is tried last the first time."""

AVOID_MAX = 16.0
"""Longest time an engine is tried last for one failure, seconds."""

FAULTS = 3.0
"""Faults that eject an engine that does accept connections; each success takes half of one away."""

MEMORY = 10.0
"""Seconds after the last fault, and after its time, until a fault is forgotten."""

REPORT_EVERY = 1.0
"""At most one report per engine in this many seconds."""

_DEAD_CORE = b"EngineCore encountered an issue"  # vLLM 0.32, v1/engine/exceptions.py: EngineDeadError


def is_dead_core(answer: bytes) -> bool:
    """Whether an engine's error, of status 500 or in a stream, says that its core is gone and it will be next."""
    return _DEAD_CORE in answer


class Candidate(Protocol):
    """An engine that can be picked, as the routing table names it."""

    @property
    def id(self) -> str:
        """Cluster-wide id."""
        ...

    @property
    def instance(self) -> str:
        """Differs each time the engine is started."""
        ...


@dataclass(slots=True)
class Trouble:
    """What is remembered of one engine. Times in seconds of the worker's clock.

    Attributes:
        instance: the start of the engine that this is about.
        out: it is ejected, or half-open.
        refused: it did not accept a connection.
        score: faults less half of the successes.
        until: tried last until then.
        span: for how long it was tried last; 0 if it never was.
        trial: the one request that tries it has until then to succeed; 0 when none was sent.
        last: time of the last fault.
    """

    instance: str
    out: bool = False
    refused: bool = False
    score: float = 0.0
    until: float = 0.0
    span: float = 0.0
    trial: float = 0.0
    last: float = 0.0


class Faults:
    """The faults of engines as one worker sees them.

    Args:
        report: takes a message to the node process.
        instance: returns which start of an engine the routing table has, by its id; "" if it has none.
        ejected: called when an engine is ejected.
    """

    def __init__(
        self,
        report: Callable[[EngineFault], None],
        instance: Callable[[str], str] = lambda _: "",
        ejected: Callable[[], None] = lambda: None,
    ) -> None:
        self._report = report
        self._instance = instance
        self._ejected = ejected
        self.avoided: dict[str, Trouble] = {}
        """By engine id: empty when all is well, and then nothing else here needs to be asked."""
        self._reported: dict[str, float] = {}
        self._waiting: dict[str, EngineFault] = {}

    # What happened.

    def unreachable(self, engine: str, reason: str, now: float) -> None:
        """Note that an engine did not accept a connection: for a while it is tried last."""
        trouble = self._trouble(engine, now)
        trouble.refused = True
        self._eject(trouble, now)
        self._note(engine, reason, now)

    def fault(self, engine: str, reason: str, now: float) -> None:
        """Note that an engine failed a request that had reached it; too many of these, and it is tried last."""
        trouble = self._trouble(engine, now)
        trouble.score = min(FAULTS, trouble.score + 1)
        if trouble.out or trouble.score >= FAULTS:
            self._eject(trouble, now)
        self._note(engine, reason, now)

    def reachable(self, engine: str) -> None:
        """Note that a request to an engine succeeded."""
        trouble = self.avoided.get(engine)
        if trouble is None:
            return
        if trouble.refused or trouble.trial:
            # Half of the faults that ejected it stay: it has to prove itself for longer than one request.
            trouble.out, trouble.refused, trouble.trial = False, False, 0.0
            trouble.score = min(trouble.score, FAULTS / 2)
        trouble.score -= 0.5
        if trouble.score <= 0:
            del self.avoided[engine]

    # Whom to try.

    def best(self, engines: Sequence[Candidate], now: float) -> list[str]:
        """Return the ids of the engines to pick from first; empty if all are to be tried last.

        Engines that accept connections are never left out beyond half of all: a model whose every request fails
        fails on the rest alone no less, and overloads it.

        Args:
            engines: all engines of a model.
            now: the worker's clock.
        """
        out = [(t, e.id) for e in engines if (t := self.avoided.get(e.id)) and self._avoids(t, e, now)]
        refused = {name for trouble, name in out if trouble.refused}
        soft = sorted((t.until, name) for t, name in out if not t.refused)
        room = max(0, len(engines) // 2 - len(refused))
        # Those whose time is over last stay out.
        left_out = refused | {name for _, name in soft[len(soft) - min(room, len(soft)) :]}
        return [e.id for e in engines if e.id not in left_out]

    def doubts(self, engine: Candidate) -> bool:
        """Whether an engine has failed lately and has not made up for it yet."""
        trouble = self.avoided.get(engine.id)
        return trouble is not None and trouble.instance == engine.instance

    def picked(self, engine: str, now: float) -> None:
        """Note that a request goes to an engine; if it was half-open, this is the one that tries it."""
        trouble = self.avoided.get(engine)
        if trouble is not None and trouble.out and now >= trouble.until:
            trouble.trial = now + trouble.span

    def _avoids(self, trouble: Trouble, engine: Candidate, now: float) -> bool:
        if trouble.instance != engine.instance:
            return False  # that was another process
        return trouble.out and now < max(trouble.until, trouble.trial)

    # What is remembered.

    def _trouble(self, engine: str, now: float) -> Trouble:
        instance = self._instance(engine)
        trouble = self.avoided.get(engine)
        if trouble is None or trouble.instance != instance:
            trouble = self.avoided[engine] = Trouble(instance)
        trouble.last = now
        return trouble

    def _eject(self, trouble: Trouble, now: float) -> None:
        trouble.out = True
        if now >= trouble.until:  # of many requests that fail at the same time, the first counts
            trouble.span = min(AVOID_MAX, max(AVOID_FIRST, 2 * trouble.span))
            trouble.until = now + trouble.span
            trouble.trial = 0.0
            self._ejected()

    # What is told.

    def _note(self, engine: str, reason: str, now: float) -> None:
        """Tell the node process now, or together with other faults of this engine a little later."""
        trouble = self.avoided[engine]
        waiting = self._waiting.get(engine)
        count = waiting.count + 1 if waiting else 1
        self._waiting[engine] = EngineFault(engine, reason, count, trouble.span if trouble.out else 0.0)
        if now - self._reported.get(engine, float("-inf")) >= REPORT_EVERY:
            self._send(engine, now)

    def flush(self, now: float) -> None:
        """Send reports that are due and forget what is long past. To be called about once a second."""
        for engine in [e for e in self._waiting if now - self._reported.get(e, 0.0) >= REPORT_EVERY]:
            self._send(engine, now)
        for engine, trouble in list(self.avoided.items()):
            if now > max(trouble.last + MEMORY, trouble.until + MEMORY + trouble.span):
                del self.avoided[engine]
        for engine in [e for e, at in self._reported.items() if now > at + REPORT_EVERY]:
            del self._reported[engine]

    def _send(self, engine: str, now: float) -> None:
        self._reported[engine] = now
        self._report(self._waiting.pop(engine))
