"""The results as Markdown, for the terminal and for docs/scale.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.scale.measure import LOSS, MeshCost, OneCost
from benchmarks.scale.table import TableCost


class Row(NamedTuple):
    """What was measured for one size; see the types of its parts.

    Attributes:
        nodes: of the cluster.
        mesh: real members of all of them; None where the machine could not run so many.
        quiet: one node, nothing to do.
        busy: one node whose gateways, like all others, have requests at all engines.
        table: the routing table.
    """

    nodes: int
    mesh: MeshCost | None
    quiet: OneCost
    busy: OneCost
    table: TableCost


def markdown(rows: Sequence[Row], machine: Mapping[str, str | int], day: str) -> str:
    """Return the results with a line about where and when they come from."""
    where = "{cpu}, {cores} cores, {memory_gb} GB, {system}, Linux {kernel}, Python {python}".format(
        **machine
    )
    parts = [
        f"Measured {day} on: {where}. One engine on each node; all timers by default; with a cluster secret.",
        _table(
            (
                "nodes",
                "CPU, quiet",
                "CPU, busy",
                "KB/s in, quiet",
                "KB/s in, busy",
                "datagrams/s in, busy",
                "heartbeat",
            ),
            (
                (
                    str(row.nodes),
                    f"{row.quiet.cpu:.1f} ms/s",
                    f"{row.busy.cpu:.0f} ms/s",
                    _kb(row.quiet.bytes_per_second),
                    _kb(row.busy.bytes_per_second),
                    f"{row.busy.received:,.0f}",
                    f"{row.busy.heartbeat:,} B",
                )
                for row in rows
            ),
        ),
        _table(
            (
                "nodes",
                "table: work out",
                "size",
                "to a worker",
                "mesh: CPU per node",
                "first knows of a loss",
                "all know",
            ),
            (
                (
                    str(row.nodes),
                    f"{1000 * row.table.make:.2f} ms",
                    _kb(row.table.size, "KB"),
                    f"{1000 * row.table.push:.2f} ms",
                    *_mesh(row.mesh),
                )
                for row in rows
            ),
        ),
    ]
    incomplete = [row.nodes for row in rows if not (row.busy.complete and row.quiet.complete)]
    if incomplete:
        parts.append(
            f"With {', '.join(map(str, incomplete))} nodes the one that was measured did not see all of the others in "
            "the end."
        )
    return "\n\n".join(parts) + "\n"


def _mesh(cost: MeshCost | None) -> tuple[str, str, str]:
    if cost is None:
        return "-", "-", "-"
    return f"{cost.cpu:.1f} ms/s", _seconds(cost.first), _seconds(cost.all)


def _seconds(value: float | None) -> str:
    return f"{value:.2f} s" if value is not None else f"not within {LOSS:g} s"


def _kb(size: float, unit: str = "") -> str:
    text = f"{size / 1000:,.1f}" if size < 100_000 else f"{size / 1000:,.0f}"
    return f"{text} {unit}".strip()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
