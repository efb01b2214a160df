"""The screen of `shoal top`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, RichLog, Static

from shoal.cli.control import NoAnswer, Refused
from shoal.cli.rates import Counted, per_second, read
from shoal.cli.status import COLOURS, duration
from shoal.node.fleet import DRAIN, UNDRAIN

_NODES = ("node", "state", "role", "last heard", "queued", "requests/s", "engines")
_ENGINES = ("engine", "state", "for", "running", "waiting", "KV", "tokens/s", "restarts", "last event")
_LEVELS = {"warning": "yellow", "error": "red"}

Row = tuple[str, Sequence[tuple[Any, Any]]]
"""A row of a table: its key, and of each cell what is sorted by and what is shown."""


class Source(Protocol):
    """Where the screen gets what it shows. Every method may take its time, and raise NoAnswer."""

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        ...

    def metrics(self) -> str:
        """Return the cluster's metrics in Prometheus' text format."""
        ...

    def order(self, path: str, arguments: dict[str, Any]) -> None:
        """Give an order; may raise Refused."""
        ...


class Question(ModalScreen[bool]):
    """Asks whether something is meant."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "Yes"),
        ("n,escape", "answer(False)", "No"),
    ]
    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Static {
        width: auto; max-width: 80%; height: auto; padding: 1 2; border: round $warning; background: $surface;
    }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Yield the question."""
        yield Static(f"{self._text}\n\n[b]y[/b] yes   [b]n[/b] no")

    def action_answer(self, answer: bool) -> None:
        """Give the answer."""
        self.dismiss(answer)


class Top(App[None]):
    """Nodes, engines and events, looked at anew all the time.

    Args:
        source: where they come from.
        interval: seconds between two looks.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("d", "drain", "Drain"),
        ("u", "undrain", "Undrain"),
        ("q", "quit", "Quit"),
    ]
    CSS = """
    #head { height: 1; padding: 0 1; }
    #nodes { height: auto; max-height: 40%; }
    #engines { height: 1fr; }
    #events { height: 8; border-top: solid $primary; }
    """

    def __init__(self, source: Source, interval: float) -> None:
        super().__init__()
        self._source = source
        self._interval = interval
        self._counted: Counted | None = None
        self._sorted: dict[str, tuple[int, bool]] = {"nodes": (0, False), "engines": (0, False)}
        self._rows: dict[str, list[Row]] = {"nodes": [], "engines": []}
        self._events: list[tuple[float, str]] = []
        self._looking = False

    def compose(self) -> ComposeResult:
        """Yield the tables."""
        yield Static("", id="head")
        with Vertical():
            yield DataTable[Any](id="nodes", cursor_type="row")
            yield DataTable[Any](id="engines", cursor_type="row")
        yield RichLog(id="events", wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begin."""
        for name, columns in (("nodes", _NODES), ("engines", _ENGINES)):
            table = self._table(name)
            for column in columns:
                table.add_column(column, key=column)
        self._table("nodes").focus()
        self._look()
        self.set_interval(self._interval, self._look)

    def _table(self, name: str) -> DataTable[Any]:
        return self.query_one(f"#{name}", DataTable)

    # -- looking

    def _look(self) -> None:
        if not self._looking:
            self._looking = True
            self._fetch()

    @work(thread=True, exit_on_error=False)
    def _fetch(self) -> None:
        """Ask, on a thread of its own, and show the answer."""
        try:
            status, problem = self._source.status(), ""
        except NoAnswer as error:
            status, problem = None, str(error).strip()
        counted = None
        if status is not None:
            try:
                counted = read(self._source.metrics(), time.monotonic())
            except NoAnswer:
                counted = None
        self.call_from_thread(self._show, status, counted, problem)

    def _show(self, status: dict[str, Any] | None, counted: Counted | None, problem: str) -> None:
        self._looking = False
        head = self.query_one("#head", Static)
        if status is None:
            head.update(Text(f"no node answers: {problem}", "bold red"))
            return
        requests, tokens = per_second(self._counted, counted) if counted is not None else ({}, {})
        self._counted = counted or self._counted
        engines = [e for m in status["members"] for e in m["engines"] if not e["standby"]]
        ready = sum(e["state"] == "ready" for e in engines)
        text = (
            f"cluster {status['cluster']}   seen by {status['node']}   engines ready {ready}/{len(engines)}   "
            f"{sum(requests.values()):.1f} requests/s   {sum(tokens.values()):.0f} tokens/s"
        )
        head.update(Text(text, "bold red" if status["isolated"] else "bold"))
        self._rows = {"nodes": _node_rows(status, requests), "engines": _engine_rows(status, tokens)}
        for name in self._rows:
            self._fill(name)
        self._tell(status["events"])

    def _fill(self, name: str) -> None:
        """Fill a table in its order; the cursor stays on its row."""
        table = self._table(name)
        column, reverse = self._sorted[name]
        rows = sorted(self._rows[name], key=lambda row: row[1][column][0], reverse=reverse)
        current = self._selected(name)
        table.clear()
        for key, cells in rows:
            table.add_row(*(shown for _, shown in cells), key=key)
        keys = [key for key, _ in rows]
        if current in keys:
            table.move_cursor(row=keys.index(current))

    def _tell(self, events: Sequence[dict[str, Any]]) -> None:
        log = self.query_one("#events", RichLog)
        known = set(self._events)
        self._events = [(event["time"], event["text"]) for event in events]
        for event in events:
            if (event["time"], event["text"]) not in known:
                clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
                log.write(
                    Text.assemble((f"{clock}  ", "dim"), (event["text"], _LEVELS.get(event["level"], "")))
                )

    # -- keys

    def _selected(self, name: str) -> str | None:
        table = self._table(name)
        if not table.row_count or not table.is_valid_coordinate(table.cursor_coordinate):
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def _in_focus(self) -> str:
        return "engines" if self._table("engines").has_focus else "nodes"

    def action_sort(self) -> None:
        """Sort the table in focus by the next column."""
        name = self._in_focus()
        columns = _NODES if name == "nodes" else _ENGINES
        column = (self._sorted[name][0] + 1) % len(columns)
        self._sorted[name] = (column, False)
        self.notify(f"{name} sorted by {columns[column]}", timeout=2)
        self._fill(name)

    def action_reverse(self) -> None:
        """Turn its order around."""
        name = self._in_focus()
        column, reverse = self._sorted[name]
        self._sorted[name] = (column, not reverse)
        self._fill(name)

    def action_drain(self) -> None:
        """Drain the node under the cursor, after a question."""
        self._ask("Drain {}? Its engines get no new requests, running ones finish.", DRAIN)

    def action_undrain(self) -> None:
        """Put it back, after a question."""
        self._ask("Put {} back into rotation?", UNDRAIN)

    def _ask(self, question: str, path: str) -> None:
        name = self._in_focus()
        selected = self._selected(name)
        if selected is None:
            return
        node = selected.partition("/")[0]

        def answered(answer: bool | None) -> None:
            if answer:
                self._order(path, node)

        self.push_screen(Question(question.format(node)), answered)

    @work(thread=True, exit_on_error=False)
    def _order(self, path: str, node: str) -> None:
        """Give an order on a thread of its own."""
        tell: Callable[..., None] = self.notify
        try:
            self._source.order(path, {"node": node})
        except (NoAnswer, Refused) as error:
            self.call_from_thread(tell, str(error).strip(), severity="error", timeout=10)
        else:
            what = "is drained" if path == DRAIN else "takes requests again"
            self.call_from_thread(tell, f"{node} {what}")


def _state(state: str) -> tuple[str, Text]:
    return state, Text(state, COLOURS.get(state, ""))


def _number(value: float, form: str = "{:g}") -> tuple[float, Text]:
    return value, Text(form.format(value), justify="right")


def _node_rows(status: dict[str, Any], requests: dict[str, float]) -> list[Row]:
    rows: list[Row] = []
    for m in status["members"]:
        age = 0.0 if m["is_self"] else float("inf") if m["age"] is None else m["age"]
        heard = "this node" if m["is_self"] else "never" if m["age"] is None else f"{m['age']:.1f} s ago"
        role = f"{m['role']} for {m['covers']}" if m["covers"] else m["role"] or "?"
        ready = sum(e["state"] == "ready" for e in m["engines"])
        rows.append(
            (
                m["name"],
                (
                    (m["name"], m["name"]),
                    _state(m["state"]),
                    (role, role),
                    (age, heard),
                    _number(sum(m.get("waiting", {}).values())),
                    _number(requests.get(m["name"], 0.0), "{:.1f}"),
                    (ready, f"{ready}/{len(m['engines'])}"),
                ),
            )
        )
    return rows


def _engine_rows(status: dict[str, Any], tokens: dict[str, float]) -> list[Row]:
    owned = [(m["name"], e) for m in status["members"] for e in m["engines"]]
    owned += [("external", e) for e in status["external"]]
    rows: list[Row] = []
    for owner, e in owned:
        name = f"{owner}/{e['id']}"
        state = "standby" if e["standby"] and e["state"] == "ready" else e["state"]
        rows.append(
            (
                name,
                (
                    (name, name),
                    _state(state),
                    (e["since"], duration(e["since"])),
                    _number(e["running"]),
                    _number(e["waiting"]),
                    _number(e["kv_usage"], "{:.0%}"),
                    _number(tokens.get(name, 0.0), "{:.0f}"),
                    _number(e["restarts"]),
                    (e["detail"], e["detail"]),
                ),
            )
        )
    return rows
