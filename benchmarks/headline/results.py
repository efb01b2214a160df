"""What was measured, and the table of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOP, ENGINE = "one after the other, transformers", "one vLLM engine"
GOAL = 5.0
"""Times as fast as one after the other, with three nodes."""


@dataclass(frozen=True)
class Run:
    """A batch, or the part of it that was done.

    Attributes:
        target: who did it.
        seconds: how long it took.
        tokens: that were generated.
        nodes: of Shoal; 0 without it.
    """

    target: str
    seconds: float
    tokens: int
    nodes: int = 0

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def shoal(nodes: int) -> str:
    """Return what so many nodes are called."""
    return f"Shoal, {nodes} node{'s' if nodes > 1 else ''}"


def ratio(run: Run, runs: Sequence[Run]) -> float:
    """Return how many times as many tokens per second it has as the first of `runs`, which is (a)."""
    return run.rate / runs[0].rate


def efficiency(run: Run, runs: Sequence[Run]) -> float | None:
    """Return the share of what as many nodes as it has would make if each made what one alone does; None without."""
    one = next((r for r in runs if r.nodes == 1), None)
    return run.rate / (run.nodes * one.rate) if run.nodes and one else None


def markdown(runs: Sequence[Run], tokens: int) -> str:
    """Return the table in Markdown.

    Args:
        runs: all of them.
        tokens: of the whole batch: seconds are those for all of it.
    """
    lines = [
        "| | seconds | tokens/s | times (a) | scaling efficiency |",
        "|---|---:|---:|---:|---:|",
    ]
    for letter, run in zip("abcdefgh", runs, strict=False):
        share = efficiency(run, runs)
        cells = (
            f"({letter}) {run.target}",
            f"{tokens / run.rate:,.1f}",
            f"{run.rate:,.1f}",
            f"{ratio(run, runs):.2f} x",
            f"{share:.0%}" if share is not None else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdict(runs: Sequence[Run]) -> str:
    """Return what was promised, and whether it was seen."""
    most = max(runs, key=lambda run: run.nodes)
    found = ratio(most, runs)
    held = "pass" if found >= GOAL and most.nodes >= 3 else "**miss**"
    return f"At least {GOAL:g} times (a) with 3 nodes: {found:.2f} with {most.nodes}: {held}."
