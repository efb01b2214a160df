"""What policies can know of engines beside their open requests: work at hand, and what engines say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Loads(Protocol):
    """Numbers by engine slot, live: all workers of a node share them."""

    @property
    def outside(self) -> Sequence[int]:
        """Requests an engine has that came through no gateway, as far as known."""

    @property
    def waiting(self) -> Sequence[int]:
        """Requests an engine says are queued in it."""

    @property
    def kv_permille(self) -> Sequence[int]:
        """Share of its KV cache that an engine says is in use, 0 to 1000."""

    def work(self, slot: int) -> Sequence[int]:
        """Return, live, what all gateways have sent the engine with this slot that no answer has begun for.

        Bytes of prompt that it had to compute anew; one number per gateway worker, to be added up.
        """
        ...


class NoLoads:
    """Nothing is known of any engine."""

    def __init__(self, slots: int = 1024) -> None:
        self.outside: Sequence[int] = bytes(slots)
        self.waiting: Sequence[int] = self.outside
        self.kv_permille: Sequence[int] = self.outside

    def work(self, slot: int) -> Sequence[int]:
        """Return nothing."""
        return ()
