"""What plain vLLM did, for people: a table on a terminal, and Markdown. Pure but for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.chaos.plain_faults import FAULTS
from benchmarks.chaos.plain_trials import PlainTrial
from benchmarks.chaos.report import seconds

COLUMNS = (
    "fault",
    "trials",
    "`/health` not 200, s",
    "running request fails, s",
    "new request fails, s",
    "leader exits, s (status)",
    "follower exits, s (status)",
    "left behind",
)
_MIB = 1 << 20

Trials = Mapping[str, Sequence[PlainTrial]]


def cells(name: str, trials: Sequence[PlainTrial]) -> list[str]:
    """Return a row of the table: medians, and in how many trials it happened at all if not in each."""
    fault = next(fault for fault in FAULTS if fault.name == name)
    patience = fault.patience
    running = _times([trial.failed for trial in trials], patience) if fault.busy else "-"
    if fault.busy and all(trial.failed is None and trial.tokens > 0 for trial in trials):
        running = f"goes on for {patience:.0f}"
    return [
        name,
        str(len(trials)),
        _times([trial.unhealthy for trial in trials], patience),
        running,
        _times([trial.new_failed for trial in trials], patience),
        _exit(name, "leader", trials, patience),
        _exit(name, "follower", trials, patience),
        _left(trials),
    ]


def _times(values: Sequence[float | None], patience: float) -> str:
    happened = [value for value in values if value is not None]
    if not happened:
        return f"not in {patience:.0f}"
    return seconds(median(happened)) + _of(len(happened), len(values))


def _exit(name: str, who: str, trials: Sequence[PlainTrial], patience: float) -> str:
    codes = {code for trial in trials if (code := getattr(trial, f"{who}_code")) is not None}
    if codes == {-9}:
        return "killed"
    shown = _times([getattr(trial, who) for trial in trials], patience)
    return f"{shown} ({', '.join(map(str, sorted(codes)))})" if codes else shown


def _of(count: int, total: int) -> str:
    return "" if count == total else f" ({count} of {total})"


def _left(trials: Sequence[PlainTrial]) -> str:
    most = {key: max(trial.left[key] for trial in trials) for key in trials[0].left}
    parts = [f"{most[who]} of the {who}'s processes" for who in ("leader", "follower") if most[who]]
    if most["memory"]:
        parts.append(f"{most['memory'] / _MIB:,.0f} MiB")
    if most["segments"]:
        parts.append(f"{most['segments']} in `/dev/shm`")
    return ", ".join(parts) or "nothing"


def conditions(document: Mapping[str, Any]) -> str:
    """Say what was measured on, and with what."""
    machine = document["machine"]
    return (
        f"vLLM {document['vllm']} on CPUs, two nodes on one machine, tensor parallel 2 over gloo, a Llama of two "
        f"layers; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}"
    )


def show(console: Console, trials: Trials, document: Mapping[str, Any]) -> None:
    """Print everything."""
    table = Table(
        title="plain vLLM, a group of two nodes", title_justify="left", header_style="dim", pad_edge=False
    )
    for column in COLUMNS:
        table.add_column(column.replace("`", ""), justify="left" if column in COLUMNS[::7] else "right")
    for name, mine in trials.items():
        table.add_row(*(escape(cell) for cell in cells(name, mine)))
    console.print(table)
    console.print(f"Times: medians. {escape(conditions(document))}.")


def markdown(trials: Trials, document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [f"Measured {document['date']}: {conditions(document)}.", ""]
    lines += [f"| plain vLLM: {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 2)}---|"]
    lines += [f"| {' | '.join(cells(name, mine))} |" for name, mine in trials.items()]
    meanings = {fault.name: fault.meaning for fault in FAULTS}
    lines += ["", *(f"- **{name}**: {meanings[name]}." for name in trials), ""]
    return "\n".join(lines)
