"""The peaks as a table, and whether they are flat. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.memory.run import Peaks

MOST = 32.0
"""Megabytes by which a process may have more for a batch that is ten times as large."""
_PROCESSES = ("client", "owner", "other node", "gateway worker")


def growth(peaks: Sequence[Peaks]) -> dict[str, float]:
    """Return by how many megabytes each process's peak is higher for the largest batch than for the smallest."""
    small, large = peaks[0].memory, peaks[-1].memory
    return {name: large[name] - small[name] for name in _PROCESSES}


def verdict(peaks: Sequence[Peaks]) -> str:
    """Return what was to be shown, and whether it was."""
    name, most = max(growth(peaks).items(), key=lambda item: item[1])
    times = peaks[-1].size / peaks[0].size
    held = "pass" if most < MOST else "FAIL"
    return f"with {times:.0f} times the input the {name} has {most:+.0f} MB, the others less: {held}"


def markdown(peaks: Sequence[Peaks], about: str) -> str:
    """Return the results as they stand in the documentation."""
    head = ["input", "lines", "s", *(f"{name}, MB" for name in _PROCESSES)]
    rows = [head, ["---"] * len(head)]
    for found in peaks:
        size = f"{found.size / 1e9:,.2f} GB"
        memory = (f"{found.memory[name]:.0f}" for name in _PROCESSES)
        rows.append([size, f"{found.lines:,}", f"{found.seconds:,.0f}", *memory])
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([about, "", *table, "", f"- {verdict(peaks)}", ""])
