"""Smooth weighted round robin, the algorithm of nginx.

Each pick, every engine's credit grows by its weight; the one with most credit is taken and pays the sum of all
weights. Over a cycle each engine is taken exactly in proportion to its weight, and a heavy engine's turns are
spread out: weights 5, 1, 1 give ``a a b a c a a`` and not ``a a a a a b c``.

Source: https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.routing.ask import Ask
from shoal.routing.table import EngineTarget


class WeightedRoundRobin:
    """Takes the candidates in turn, each as often as its weight says.

    Args:
        seed: rotates which of several equal engines comes first, so that workers do not herd.
    """

    uses_load = False

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._credit: dict[str, float] = {}

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the engine with most credit; of equal ones the first."""
        credit = self._credit
        if len(credit) > 2 * len(engines):
            self._credit = credit = {e.id: credit[e.id] for e in engines if e.id in credit}
        if not credit:
            credit.update(self._head_start(engines))
        total = 0.0
        best = 0
        most = float("-inf")
        for index, engine in enumerate(engines):
            total += engine.weight
            credit[engine.id] = mine = credit.get(engine.id, 0.0) + engine.weight
            if mine > most:
                best, most = index, mine
        credit[engines[best].id] = most - total
        return best

    def _head_start(self, engines: Sequence[EngineTarget]) -> dict[str, float]:
        """Credit of zero sum for the first pick: the engine that `seed` points at is a little ahead.

        The head start is less than any engine's weight, so every cycle still gives each its exact share.
        """
        lightest = min(engine.weight for engine in engines)
        favourite = self._seed % len(engines)
        share = lightest / (2 * len(engines))
        return {
            engine.id: share * (len(engines) - 1) if index == favourite else -share
            for index, engine in enumerate(engines)
        }
