"""What a worker remembers about engines that fail: whom to try last, and what to tell the node process."""

from __future__ import annotations

from collections.abc import Callable

from shoal.gateway.messages import EngineFault

AVOID_FIRST = 1.0
"""Seconds an engine that did not accept a connection is tried last. Doubles while it goes on."""

AVOID_MAX = 16.0
"""Longest time an engine is tried last for one failure, seconds."""

REPORT_EVERY = 1.0
"""At most one report per engine in this many seconds."""

_DEAD_CORE = b"EngineCore encountered an issue"  # vLLM 0.32, v1/engine/exceptions.py: EngineDeadError


def is_dead_core(answer: bytes) -> bool:
    """Whether an engine's error, of status 500 or in a stream, says that its core is gone and it will be next."""
    return _DEAD_CORE in answer


class Faults:
    """The faults of engines as one worker sees them.

    Args:
        report: takes a message to the node process.
    """

    def __init__(self, report: Callable[[EngineFault], None]) -> None:
        self._report = report
        self.avoided: dict[str, tuple[float, float]] = {}
        """Engine id -> (tried last until, for how long): empty when all is well."""
        self._reported: dict[str, float] = {}
        self._waiting: dict[str, EngineFault] = {}

    def unreachable(self, engine: str, reason: str, now: float) -> None:
        """Note that an engine did not accept a connection: for a while it is tried last."""
        until, span = self.avoided.get(engine, (0.0, 0.0))
        if now >= until:  # of many requests that fail at the same time, the first counts
            span = min(AVOID_MAX, max(AVOID_FIRST, 2 * span))
            self.avoided[engine] = (now + span, span)
        self.fault(engine, reason, now)

    def reachable(self, engine: str) -> None:
        """Note that a request to an engine succeeded."""
        self.avoided.pop(engine, None)

    def avoids(self, engine: str, now: float) -> bool:
        """Whether to try others first."""
        entry = self.avoided.get(engine)
        return entry is not None and now < entry[0]

    def fault(self, engine: str, reason: str, now: float) -> None:
        """Note a fault; the node process hears of it now, or together with others of this engine a little later."""
        waiting = self._waiting.get(engine)
        self._waiting[engine] = EngineFault(engine, reason, waiting.count + 1 if waiting else 1)
        if now - self._reported.get(engine, float("-inf")) >= REPORT_EVERY:
            self._send(engine, now)

    def flush(self, now: float) -> None:
        """Send reports that are due and forget what is long past. To be called about once a second."""
        for engine in [e for e in self._waiting if now - self._reported.get(e, 0.0) >= REPORT_EVERY]:
            self._send(engine, now)
        for engine in [e for e, (until, span) in self.avoided.items() if now > until + 2 * span]:
            del self.avoided[engine]
        for engine in [e for e, at in self._reported.items() if now > at + REPORT_EVERY]:
            del self._reported[engine]

    def _send(self, engine: str, now: float) -> None:
        self._reported[engine] = now
        self._report(self._waiting.pop(engine))
