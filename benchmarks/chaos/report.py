"""Results for people: a table on a terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.chaos.faults.base import Fault
from benchmarks.chaos.results import Row, percentile

COLUMNS = (
    "fault",
    "trials",
    "requests",
    "failed",
    "broken streams",
    "wrong bytes",
    "detection, s",
    "recovery, s",
    "last error after, s",
    "longest pause, s",
)

_DISTURBED = 0.5  # load average before a run, above which others are at work


def seconds(value: float | None) -> str:
    """Return seconds for a table: ``0.048``, ``2.39``, ``38.2``."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def spread(values: Sequence[float]) -> str:
    """Return median and 99th percentile: ``0.05 / 0.07``; ``-`` without any."""
    if not values:
        return "-"
    return f"{seconds(percentile(values, 0.5))} / {seconds(percentile(values, 0.99))}"


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    counts = [f"{n:,}" for n in (len(row.trials), row.requests, row.failed, row.broken, row.wrong)]
    errors, pauses = row.values("last_error"), row.values("pause")
    return [
        row.fault,
        *counts,
        spread(row.values("detection")),
        spread(row.values("recovery")),
        spread(errors) if any(errors) else "none",
        spread(pauses) if any(pauses) else "none",
    ]


def remarks(row: Row) -> list[str]:
    """Return what the numbers of a row do not say."""
    name = row.fault if row.system == "shoal" else f"{row.system}, {row.fault}"
    if row.skipped:
        return [f"{name}: not tried: {row.skipped}"]
    said = [f"{name}: {problem}" for problem in row.problems]
    if row.excused:
        said.append(f"{name}: {row.excused} requests went down with the gateway process that carried them")
    said += [f"{name}: {count} x {reason}" for reason, count in row.reasons.items()]
    return said


def systems(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows that were tried by system, Shoal's first."""
    found: dict[str, list[Row]] = {"shoal": []}
    for row in rows:
        if not row.skipped:
            found.setdefault(row.system, []).append(row)
    return {system: mine for system, mine in found.items() if mine}


def conditions(document: Mapping[str, Any]) -> str:
    """Say what was measured on, and how."""
    machine = document["machine"]
    return (
        f"Shoal {document['shoal']}, {document['clients']} concurrent requests, {document['nodes']} nodes "
        f"{document['network']}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Linux {machine['kernel']}, Python {machine['python']}; the load generator used "
        f"{document['load_cores']:.2f} cores"
    )


def _warning(document: Mapping[str, Any]) -> str:
    load = document["load_average"]
    return f"The machine was busy before this began (load average {load:.1f}): times may be too long."


def show(console: Console, rows: Sequence[Row], document: Mapping[str, Any]) -> None:
    """Print everything."""
    console.print()
    for system, mine in systems(rows).items():
        table = Table(
            title=system, title_justify="left", title_style="bold", header_style="dim", pad_edge=False
        )
        table.add_column(COLUMNS[0])
        for column in COLUMNS[1:]:
            table.add_column(column, justify="right")
        for row in mine:
            table.add_row(*map(escape, cells(row)), style="red" if row.wrong else "")
        console.print(table)
    console.print("Times: median / p99 over the trials.")
    for row in rows:
        for remark in remarks(row):
            console.print(f"[yellow]note[/yellow]  {escape(remark)}")
    console.print(f"\n{escape(conditions(document))}.")
    if document["load_average"] > _DISTURBED:
        console.print(f"[yellow]{_warning(document)}[/yellow]")


def markdown(rows: Sequence[Row], document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [f"Measured {document['date']}: {conditions(document)}.", ""]
    lines += ["Times are seconds: median / 99th percentile over the trials.", ""]
    for system, mine in systems(rows).items():
        head = COLUMNS if system == "shoal" else (f"{system}: fault", *COLUMNS[1:])
        lines += [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
        lines += [f"| {' | '.join(cells(row))} |" for row in mine]
        lines.append("")
    said = [f"- {_plain(remark)}" for row in rows for remark in remarks(row)]
    if said:
        lines += ["Remarks of this run:", "", *said, ""]
    if document["load_average"] > _DISTURBED:
        lines += [_warning(document), ""]
    return "\n".join(lines)


def definitions(faults: Sequence[type[Fault]]) -> str:
    """Return what each fault is, as a Markdown list."""
    return "".join(f"- **{fault.name}**: {fault.meaning}\n" for fault in faults)


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")
