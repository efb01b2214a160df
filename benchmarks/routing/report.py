"""Results for people: tables on a terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.routing.plan import GOALS, RATES
from benchmarks.routing.results import LATE, ORACLES, OURS, Row, Sample, Verdict

_MARKS = {True: ("[green]pass[/green]", "pass"), False: ("[red]FAIL[/red]", "**miss**"), None: ("-", "-")}


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}"


_COLUMNS: tuple[tuple[str, Callable[[Sample], float], Callable[[float], str]], ...] = (
    ("hit rate", lambda s: s.hit_rate, lambda v: f"{v:.3f}"),
    ("TTFT p50 ms", lambda s: s.p50, _ms),
    ("p90 ms", lambda s: s.p90, _ms),
    ("p99 ms", lambda s: s.p99, _ms),
    ("within goal", lambda s: s.within, lambda v: f"{v:.1%}"),
    ("imbalance", lambda s: s.typical, lambda v: f"{v:.2f}"),
    ("at worst", lambda s: s.peak, lambda v: f"{v:.2f}"),
    ("router CPU µs", lambda s: s.router * 1e6, lambda v: f"{v:,.0f}" if v else "-"),
)


def title_of(workload: str, gateways: int) -> str:
    """Return the heading of a table."""
    return f"{workload}, {gateways} gateway{'s' if gateways > 1 else ''}"


def groups(rows: Sequence[Row]) -> list[tuple[str, int, list[Row]]]:
    """Return rows by workload and number of gateways, in the order of both."""
    keys = dict.fromkeys((row.workload, row.gateways) for row in rows)
    return [
        (workload, gateways, [r for r in rows if (r.workload, r.gateways) == (workload, gateways)])
        for workload, gateways in keys
    ]


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the titles of the columns that `rows` have."""
    rated = any(row.highest_rate is not None for row in rows)
    return [title for title, _, _ in _COLUMNS] + (["requests/s at goal"] if rated else []) + ["errors"]


def cells(row: Row, rated: bool) -> list[str]:
    """Return what stands in a row; "-" where nothing could be measured."""
    found = []
    for _, figure, show in _COLUMNS:
        value = row.median(figure)
        found.append("-" if value is None else show(value))
    if rated:
        highest = row.highest_rate
        found.append(
            "-" if highest is None else f"{highest * RATES[row.workload]:.0f}" if highest else "less"
        )
    found.append(str(row.errors))
    return found


def name_of(row: Row) -> str:
    """Return a target's name and version."""
    return f"{row.target} {row.version}".strip()


def _notes(rows: Sequence[Row]) -> list[str]:
    notes: list[str] = []
    for row in rows:
        where = title_of(row.workload, row.gateways)
        notes += [f"{name_of(row)} ({where}): {problem}" for problem in row.problems]
        saturated = sum(sample.saturated for sample in row.samples)
        if saturated:
            share = f"{saturated} of {len(row.samples)} runs"
            notes.append(
                f"{name_of(row)} ({where}): {share} left out: timers were more than {LATE * 1e3:.0f} ms late"
            )
    return notes


def condition(document: Mapping[str, Any]) -> str:
    """Say how busy harness and machine were."""
    if document["virtual"]:
        return (
            "In virtual time: engines and Shoal's policies in one process. No gateway, no network and no other router "
            "is in the numbers."
        )
    return (
        f"Simulated engines and load generator used {document['busy_cores']:.0%} of a core at most, and 99 % of their "
        f"timers were at most {document['late_ms']:.1f} ms late (median of the runs)."
    )


def show(
    console: Console, rows: Sequence[Row], verdicts: Sequence[Verdict], document: Mapping[str, Any]
) -> None:
    """Print everything: tables, what went wrong, what was promised."""
    for workload, gateways, group in groups(rows):
        titles = columns(group)
        about = f"first tokens wanted in {_ms(GOALS[workload])} ms, {RATES[workload]:.0f} requests/s"
        table = Table(
            title=f"{title_of(workload, gateways)} ({about})",
            title_justify="left",
            title_style="bold",
            header_style="dim",
            pad_edge=False,
        )
        table.add_column("")
        for title in titles:
            table.add_column(title, justify="right")
        for row in group:
            style = "bold" if row.target == OURS else "italic" if row.target in ORACLES else ""
            table.add_row(escape(row.target), *cells(row, "requests/s at goal" in titles), style=style)
        console.print(table)
    for workload, share in document["endless"].items():
        console.print(f"A cache without end would have had {share:.3f} of the prompt tokens of {workload}.")
    for note in _notes(rows):
        console.print(f"[yellow]note[/yellow]  {escape(note)}")
    console.print(f"\n{escape(machine_sentence(document))} {condition(document)}")
    console.print("\n[bold]What was promised[/bold] (medians)")
    for verdict in verdicts:
        console.print(f"  {_MARKS[verdict.held][0]:<4}  {escape(verdict.text)}")


def machine_sentence(document: Mapping[str, Any]) -> str:
    """Say what was measured on."""
    machine = document["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Linux {machine['kernel']}, Python {machine['python']}."
    )


def markdown(rows: Sequence[Row], verdicts: Sequence[Verdict], document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    seeds = document["seeds"]
    lines = [f"Measured {document['date']} on: {machine_sentence(document)} {condition(document)}", ""]
    lines += [f"Medians of {seeds} runs with different texts and arrivals." if seeds > 1 else "One run.", ""]
    for workload, gateways, group in groups(rows):
        titles = columns(group)
        lines += [
            f"**{title_of(workload, gateways)}** ({document['about'][workload]}; first tokens wanted in "
            f"{_ms(GOALS[workload])} ms; a cache without end would have had {document['endless'][workload]:.3f})",
            "",
            f"| | {' | '.join(titles)} |",
            f"|---|{'---:|' * len(titles)}",
        ]
        for row in group:
            name = name_of(row)
            name = f"**{name}**" if row.target == OURS else f"*{name}*" if row.target in ORACLES else name
            lines.append(f"| {name} | {' | '.join(cells(row, 'requests/s at goal' in titles))} |")
        lines.append("")
    notes = _notes(rows)
    if notes:
        lines += ["Remarks of this run:", "", *(f"- {note}" for note in notes), ""]
    lines += ["| promise | |", "|---|---|"]
    lines += [f"| {verdict.text} | {_MARKS[verdict.held][1]} |" for verdict in verdicts]
    return "\n".join(lines) + "\n"
