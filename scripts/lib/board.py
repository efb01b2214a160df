"""What the demo shows while engines load: one row per node, from a status document. Needs rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lib.progress import duration

_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "stopped": "red",
    "unhealthy": "red",
    "dead": "red",
}
HOPELESS = 3  # restarts after which the demo no longer believes in an engine
NODE_START = 60.0  # seconds a node process may take until the others hear it


@dataclass(frozen=True)
class Row:
    """One engine, or a node that has none yet.

    Attributes:
        node: name of the node.
        engine: id of the engine, empty without one.
        state: of the engine, else of the node.
        detail: what it is at, for people.
        restarts: how often the engine was started again.
        errors: last error lines of the engine.
    """

    node: str
    engine: str
    state: str
    detail: str
    restarts: int = 0
    errors: tuple[str, ...] = ()


def rows(names: Sequence[str], status: Mapping[str, Any]) -> list[Row]:
    """Return the rows for the nodes `names` from a node's status document, {} when none answered yet."""
    members = {m["name"]: m for m in status.get("members", [])}
    found: list[Row] = []
    for name in names:
        member = members.get(name)
        if member is None or member["state"] != "alive":
            gone = member is not None and member["state"] not in ("unknown", "suspect")
            state, detail = ("dead", "the node is gone") if gone else ("starting", "the node process starts")
            found.append(Row(name, "", state, detail))
            continue
        engines = [
            Row(
                name,
                e["id"],
                e["state"],
                e.get("detail", ""),
                e.get("restarts", 0),
                tuple(e.get("errors", ())),
            )
            for e in member.get("engines", [])
        ]
        found += engines or [Row(name, "", "starting", "no engine yet")]
    return found


def all_ready(board: Sequence[Row]) -> bool:
    """Return whether every row is a ready engine."""
    return bool(board) and all(r.engine and r.state == "ready" for r in board)


def hopeless(board: Sequence[Row]) -> Row | None:
    """Return an engine that was started again and again without becoming ready."""
    return next((r for r in board if r.restarts >= HOPELESS and r.state != "ready"), None)


def lost(board: Sequence[Row], elapsed: float) -> Row | None:
    """Return a node that is gone, or has not shown up `elapsed` seconds after the start."""
    silent = [r for r in board if not r.engine and (r.state == "dead" or elapsed > NODE_START)]
    return silent[0] if silent else None


class Board:
    """Shows rows until they are all ready: a table redrawn on a terminal, a line per change elsewhere."""

    def __init__(self, console: Console, every: float = 20.0) -> None:
        self._console = console
        self._every = every
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._states: dict[tuple[str, str], str] = {}
        self._next = every

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, board: Sequence[Row], elapsed: float) -> None:
        """Show `board`, `elapsed` seconds after the start."""
        if self._console.is_terminal:
            self._live.update(self._table(board, elapsed), refresh=True)
            return
        late = elapsed >= self._next
        if late:
            self._next = elapsed + self._every
        for row in board:
            changed = self._states.get((row.node, row.engine)) != row.state
            self._states[row.node, row.engine] = row.state
            if changed or (late and row.state != "ready"):
                line = f"{duration(elapsed):>8}  {row.node:<15} {row.engine:<24} {row.state:<9} {row.detail}"
                self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _table(self, board: Sequence[Row], elapsed: float) -> Group:
        table = Table(
            "node", "engine", "state", "what it is at", box=None, pad_edge=False, header_style="dim"
        )
        table.columns[3].no_wrap = True
        for row in board:
            colour = _COLOURS.get(row.state, "")
            detail = f"{row.detail} (started again: {row.restarts})" if row.restarts else row.detail
            table.add_row(row.node, row.engine or "-", Text(row.state, colour), Text(detail))
        ready = sum(r.state == "ready" for r in board)
        foot = Text(f"{ready} of {len(board)} engines ready, {duration(elapsed)}", "dim")
        return Group(table, foot)
