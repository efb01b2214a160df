"""The node's event history: every decision and every change, as a sentence."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec

_log = logging.getLogger("shoal")


class Event(msgspec.Struct, frozen=True):
    """One thing that happened.

    Attributes:
        time: seconds since the epoch.
        level: ``info``, ``warning`` or ``error``.
        text: the sentence.
    """

    time: float
    level: str
    text: str


class Events:
    """Keeps the last events in memory and writes each one to the log."""

    def __init__(self, keep: int = 1000, clock: Callable[[], float] = time.time) -> None:
        self._events: deque[Event] = deque(maxlen=keep)
        self._clock = clock
        self.counts: Counter[str] = Counter(info=0, warning=0, error=0)
        """Events since the start, by level."""

    def add(self, text: str, level: str = "info") -> None:
        """Record a sentence; `level` is ``info``, ``warning`` or ``error``."""
        self.counts[level] += 1
        self._events.append(Event(self._clock(), level, text))
        _log.log(logging.getLevelNamesMapping()[level.upper()], text)

    def last(self, count: int = 50) -> list[Event]:
        """Return the last `count` events, oldest first."""
        return list(self._events)[-count:]
