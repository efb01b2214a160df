"""Least connections: the engine that would have the least open work per weight with this request added."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.routing.ask import Ask
from shoal.routing.table import EngineTarget


class LeastConnections:
    """Picks the smallest ``(in_flight + 1) / weight``; equal ones take turns.

    The turns matter: between two updates of the counts, simultaneous arrivals at several workers see the same
    numbers, and would all go to the first of the equal engines.

    Args:
        seed: where the first turn starts, different in each worker.
    """

    uses_load = True

    def __init__(self, seed: int = 0) -> None:
        self._turn = seed
        self._engines: Sequence[EngineTarget] = ()
        self._weights: list[float] | None = None  # None: all equal

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the engine with the least open work per weight."""
        if engines is not self._engines:  # a route's engines are one tuple until the table changes
            weights = [engine.weight for engine in engines]
            self._weights = weights if min(weights) < max(weights) else None
            self._engines = engines
        costs: list[float] = [*in_flight]
        if self._weights is not None:
            costs = [(open_ + 1) / weight for open_, weight in zip(in_flight, self._weights, strict=True)]
        size = len(costs)
        # Once around, beginning after the engine picked last.
        index = (costs + costs).index(min(costs), self._turn % size) % size
        self._turn = index + 1
        return index
