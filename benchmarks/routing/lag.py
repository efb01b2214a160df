"""How late a process's event loop is: what tells whether it, or the machine under it, was overloaded."""

from __future__ import annotations

import asyncio

_EVERY = 0.01  # seconds


class LagMeter:
    """Wakes up at fixed times and notes how late that was. Runs from its making until `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late: list[float] = []
        self._due = self._loop.time() + _EVERY
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self._late.append(now - self._due)
        self._due = max(self._due + _EVERY, now)
        self._timer = self._loop.call_at(self._due, self._tick)

    def take(self) -> list[float]:
        """Return the seconds it was late each time since the last call."""
        late, self._late = self._late, []
        return late

    def stop(self) -> None:
        """Wake up no more."""
        self._timer.cancel()
