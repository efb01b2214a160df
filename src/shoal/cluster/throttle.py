"""Says how often something may be told, so that a flood of causes never becomes a flood of sentences."""

from __future__ import annotations


class Throttle:
    """Lets each key pass once per period, and at most so many keys per period.

    Args (of the constructor):
        period: seconds.
        keys: how many keys may pass within a period; what comes beyond is silently refused, which bounds memory.
    """

    def __init__(self, period: float = 60.0, keys: int = 64) -> None:
        self._period = period
        self._keys = keys
        self._passed: dict[str, float] = {}

    def allow(self, key: str, now: float) -> bool:
        """Return whether `key` may pass at time `now` (seconds of any steady clock)."""
        if key in self._passed and now - self._passed[key] < self._period:
            return False
        if len(self._passed) >= self._keys:
            self._passed = {k: t for k, t in self._passed.items() if now - t < self._period}
            if len(self._passed) >= self._keys:
                return False
        self._passed[key] = now
        return True
