"""How evenly requests are spread over engines. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FEW = 4.0  # open requests per engine in the mean, below which a difference is chance and no imbalance


@dataclass(frozen=True)
class Balance:
    """What looks at the open requests of all engines say.

    Attributes:
        peak: the worst moment: the fullest engine over the mean of all, which counts as at least `FEW`.
        typical: the fullest engine over the mean, both summed over the moments in which the mean was at least `FEW`;
            1 when there was none.
        most: open requests of one engine at most.
    """

    peak: float = 0.0
    typical: float = 1.0
    most: int = 0


def balance_of(looks: Iterable[Sequence[int]]) -> Balance:
    """Return the balance that `looks`, taken at equal intervals, show: each has the open requests of every engine."""
    peak, fullest, means, highest = 0.0, 0.0, 0.0, 0
    for open_requests in looks:
        most, mean = max(open_requests), sum(open_requests) / len(open_requests)
        highest = max(highest, most)
        peak = max(peak, most / max(mean, FEW))
        if mean >= FEW:
            fullest += most
            means += mean
    return Balance(peak, fullest / means if means else 1.0, highest)
