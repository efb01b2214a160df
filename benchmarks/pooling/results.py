"""What was measured, and the table of it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DIRECT, ONE, TWO = "one engine, asked directly", "Shoal, 1 engine", "Shoal, 2 engines"
TARGETS = (DIRECT, ONE, TWO)
"""What is compared, in the order in which it is asked."""


@dataclass(frozen=True)
class Sample:
    """One target in one round.

    Attributes:
        rate: embeddings per second.
        took: seconds of each request, sorted.
    """

    rate: float
    took: tuple[float, ...]


Samples = Mapping[tuple[str, int], Sequence[Sample]]
"""By target and requests at once: a sample for each round."""


def sample(took: Sequence[float], seconds: float) -> Sample:
    """Return what requests of one text each amount to.

    Args:
        took: seconds of each.
        seconds: from the first one's start to the last one's end.
    """
    return Sample(len(took) / seconds, tuple(sorted(took)))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of sorted `values` do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def ratio(samples: Samples, target: str, at_once: int) -> float:
    """Return how many times as many embeddings per second a target gives as one engine: the median over rounds.

    Both sides of a round were measured one after the other, so that what else the machine does hits both.
    """
    pairs = zip(samples[target, at_once], samples[DIRECT, at_once], strict=True)
    return statistics.median(one.rate / direct.rate for one, direct in pairs)


def markdown(samples: Samples, loads: Sequence[int]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| | at once | embeddings/s | as one engine | p50 | p95 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for at_once in loads:
        for target in TARGETS:
            rounds = samples[target, at_once]
            took = sorted(t for one in rounds for t in one.took)
            cells = (
                target,
                str(at_once),
                f"{statistics.median(one.rate for one in rounds):.2f}",
                "" if target == DIRECT else f"{ratio(samples, target, at_once):.2f} x",
                f"{1000 * quantile(took, 0.5):.0f} ms",
                f"{1000 * quantile(took, 0.95):.0f} ms",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
