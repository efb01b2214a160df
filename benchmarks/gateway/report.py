"""Results for people: tables on a terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.gateway.peers import Kind
from benchmarks.gateway.results import (
    CPU_EVENT,
    CPU_LARGE,
    CPU_REQUEST,
    CPU_UNPACED,
    P50,
    P99,
    RATE,
    REQUESTS,
    STREAMS,
    TTFT,
    Metric,
    Row,
    Spread,
    Verdict,
    number,
    ratio,
)

_MARKS = {True: ("[green]pass[/green]", "pass"), False: ("[red]FAIL[/red]", "**miss**"), None: ("-", "-")}
_DISTURBED = 0.15  # cores busy with something else, above which results deserve no trust


def name_of(row: Row) -> str:
    """Return a target's name and version."""
    return f"{row.name} {row.version}".strip()


def _range(spread: Spread) -> str:
    return f"{number(spread.low)}–{number(spread.high)}"


def _empty(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _style(row: Row) -> str:
    return "bold" if row.kind is Kind.SHOAL else ""


def _table(title: str, rows: Sequence[Row], metrics: Sequence[Metric]) -> Table:
    table = _empty(title, [metric.title for metric in metrics])
    for row in rows:
        cells = []
        for metric in metrics:
            found = row.spread(metric)
            cells.append(f"{number(found.median)}\n[dim]{_range(found)}[/dim]" if found else "-")
        table.add_row(f"{escape(row.name)}\n[dim]{escape(row.version)}[/dim]", *cells, style=_style(row))
    return table


_RATIOS = (
    (CPU_REQUEST, "CPU/request\nx nginx"),
    (RATE, "requests/s\nx nginx"),
    (CPU_LARGE, "CPU/32 KB\nx nginx"),
    (CPU_EVENT, "CPU/event\nx nginx"),
    (CPU_UNPACED, "unpaced\nx nginx"),
)
_ADDED = (
    (P50, "p50 µs\nadded"),
    (P99, "p99 µs\nadded"),
    (TTFT, "TTFT µs\nadded"),
)
COMPARED = [title for _, title in (*_RATIOS, *_ADDED)]


def compared(rows: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """Return, for each row, its medians over nginx's, and the latency it adds to talking to an engine directly."""
    nginx = next((row for row in rows if row.name == "nginx"), None)
    direct = next((row for row in rows if row.kind is Kind.DIRECT), None)
    found = []
    for row in rows:
        cells = []
        for metric, _ in _RATIOS:
            times = ratio(row.median(metric), nginx.median(metric) if nginx else None)
            cells.append("-" if times is None else f"{times:.2f}")
        for metric, _ in _ADDED:
            mine, base = row.median(metric), direct.median(metric) if direct and direct is not row else None
            cells.append("-" if mine is None or base is None else number(mine - base))
        found.append((row, cells))
    return found


def _comparison(rows: Sequence[Row]) -> Table:
    table = _empty("Next to nginx, and to no router at all (medians)", COMPARED)
    for row, cells in compared(rows):
        table.add_row(escape(row.name), *cells, style=_style(row))
    return table


def machine_sentence(machine: Mapping[str, Any]) -> str:
    """Say what was measured on."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {machine['placement']}"
    )


def samples_sentence(document: Mapping[str, Any]) -> str:
    """Say of how many samples there are medians."""
    repeats = document["repeats"]
    return f"Medians of {repeats} interleaved repeats ({repeats * document['slices']} for requests of 1 KB)"


def disturbance(others: float) -> str | None:
    """Return a warning when other processes kept `others` cores busy meanwhile."""
    if others < _DISTURBED:
        return None
    return (
        f"Other processes kept {others:.2f} cores busy while this ran: do not trust latencies and requests/s."
    )


def show(
    console: Console, rows: Sequence[Row], verdicts: Sequence[Verdict], document: Mapping[str, Any]
) -> None:
    """Print everything: tables, ratios, what went wrong, the budgets."""
    measured = [row for row in rows if row.samples]
    console.print()
    console.print(_table("Requests (median, least–greatest)", measured, REQUESTS))
    console.print(_table("Streams and memory", measured, STREAMS))
    console.print(_comparison(measured))
    for row in rows:
        for problem in row.problems:
            kind = "[yellow]note[/yellow]" if row.samples else "[red]not measured[/red]"
            console.print(f"{kind}  {escape(name_of(row))}: {escape(problem)}")
    console.print(f"\n{escape(machine_sentence(document['machine']))}.")
    if (warning := disturbance(document["others_busy_cores"])) is not None:
        console.print(f"[yellow]{warning}[/yellow]")
    console.print("\n[bold]Budgets[/bold] (medians; Shoal's whole process tree)")
    for verdict in verdicts:
        console.print(f"  {_MARKS[verdict.held][0]:<4}  {escape(verdict.text)}")


def _markdown_table(rows: Sequence[Row], metrics: Sequence[Metric]) -> list[str]:
    titles = [metric.title.replace("\n", ", ") for metric in metrics]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(metrics)}"]
    for row in rows:
        cells = []
        for metric in metrics:
            found = row.spread(metric)
            cells.append(f"{number(found.median)} ({_range(found)})" if found else "-")
        name = f"**{name_of(row)}**" if row.kind is Kind.SHOAL else name_of(row)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def markdown(rows: Sequence[Row], verdicts: Sequence[Verdict], document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    measured = [row for row in rows if row.samples]
    lines = [f"Measured {document['date']} on: {machine_sentence(document['machine'])}.", ""]
    lines += [f"{samples_sentence(document)}, least and greatest in brackets.", ""]
    lines += [*_markdown_table(measured, REQUESTS), "", *_markdown_table(measured, STREAMS), ""]
    titles = [title.replace("\n", ", ") for title in COMPARED]
    lines += [f"| medians | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    lines += [f"| {row.name} | {' | '.join(cells)} |" for row, cells in compared(measured)]
    lines.append("")
    problems = [f"- {name_of(row)}: {problem}" for row in rows for problem in row.problems]
    if problems:
        lines += ["Remarks of this run:", "", *problems, ""]
    if (warning := disturbance(document["others_busy_cores"])) is not None:
        lines += [warning, ""]
    lines += ["| budget | |", "|---|---|"]
    lines += [f"| {verdict.text} | {_MARKS[verdict.held][1]} |" for verdict in verdicts]
    return "\n".join(lines) + "\n"
