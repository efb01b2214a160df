"""Round robin: each engine in turn, whatever its weight or load."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.routing.ask import Ask
from shoal.routing.table import EngineTarget


class RoundRobin:
    """Takes the candidates in order, one after the other.

    Args:
        seed: where the first turn starts, so that workers which start together do not all begin with one engine.
    """

    uses_load = False

    def __init__(self, seed: int = 0) -> None:
        self._turn = seed

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the engine whose turn it is."""
        turn = self._turn % len(engines)
        self._turn = turn + 1
        return turn
