"""Power of two choices: of two engines picked at random the less loaded one.

Looks at two engines however many there are, and does not herd when counts are late: others look at other two.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from shoal.routing.ask import Ask
from shoal.routing.table import EngineTarget


class PowerOfTwo:
    """Picks the smaller ``(in_flight + 1) / weight`` of two engines.

    Args:
        rng: chooses the two.
    """

    uses_load = True

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = (rng or random.Random()).random

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the less loaded of two."""
        size = len(engines)
        if size == 1:
            return 0
        one = int(self._random() * size)
        other = int(self._random() * (size - 1))
        other += other >= one
        # Compared without division: (a + 1) / weight of a against the same of b.
        mine = (in_flight[one] + 1) * engines[other].weight
        return one if mine <= (in_flight[other] + 1) * engines[one].weight else other
