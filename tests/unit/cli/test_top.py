"""The screen of `shoal top`, driven through Textual's own harness."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static
from typer.testing import CliRunner

from shoal.cli import top
from shoal.cli.control import NoAnswer, Refused
from shoal.cli.main import app
from shoal.cli.top_app import Question, Top
from shoal.node.fleet import DRAIN, UNDRAIN


def engine(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "state": "ready", "since": 3.0, "running": 1, "waiting": 0, "kv_usage": 0.5, "restarts": 0,
        "detail": "", "standby": False,
    } | more  # fmt: skip


def member(name: str, *engines: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name, "state": "alive", "is_self": name == "a:1", "age": 0.2, "role": "serve", "covers": None,
        "waiting": {"m": 2}, "engines": list(engines),
    } | more  # fmt: skip


class Cluster:
    """A source that tests change."""

    def __init__(self) -> None:
        self.members = [
            member("a:1", engine("m-0", running=5)),
            member("b:1", engine("m-0", running=9, state="starting"), age=None),
        ]
        self.events = [{"time": 1.0, "level": "info", "text": "node a:1 is up"}]
        self.orders: list[Any] = []
        self.problem: Exception | None = None
        self.requests = 10

    def status(self) -> dict[str, Any]:
        if isinstance(self.problem, NoAnswer):
            raise self.problem
        return {
            "cluster": "c", "node": "a:1", "isolated": False, "members": self.members, "external": [],
            "events": self.events,
        }  # fmt: skip

    def metrics(self) -> str:
        self.requests += 50
        return f'shoal_gateway_requests_total{{node="a:1",code="200"}} {self.requests}.0\n'

    def order(self, path: str, arguments: dict[str, Any]) -> None:
        if isinstance(self.problem, Refused):
            raise self.problem
        self.orders.append((path, arguments))


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await pilot.pause(0.05)


def play(cluster: Cluster, act: Callable[[Top, Pilot[None]], Awaitable[None]]) -> None:
    async def main() -> None:
        screen = Top(cluster, 0.1)
        async with screen.run_test(size=(160, 40)) as pilot:
            await until(pilot, lambda: rows(screen, "nodes"))
            await act(screen, pilot)

    asyncio.run(main())


def rows(screen: Top, name: str) -> list[list[str]]:
    table = screen.screen_stack[0].query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


def test_nodes_engines_rates_and_events_are_shown_and_follow():
    cluster = Cluster()

    async def act(screen: Top, pilot: Pilot[None]) -> None:
        assert [row[:2] for row in rows(screen, "nodes")] == [["a:1", "alive"], ["b:1", "alive"]]
        assert [row[0] for row in rows(screen, "engines")] == ["a:1/m-0", "b:1/m-0"]
        await until(pilot, lambda: float(rows(screen, "nodes")[0][5]) > 0)
        assert "engines ready 1/2" in str(screen.query_one("#head", Static).render())
        cluster.members[1]["state"] = "dead"
        cluster.events.append({"time": 2.0, "level": "warning", "text": "node b:1 is dead"})
        await until(pilot, lambda: rows(screen, "nodes")[1][1] == "dead")
        await until(pilot, lambda: len(screen.query_one("#events", RichLog).lines) == 2)
        cluster.problem = NoAnswer("nobody is there")
        await until(pilot, lambda: "no node answers" in str(screen.query_one("#head", Static).render()))

    play(cluster, act)


def test_the_table_in_focus_is_sorted_and_turned_around():
    async def act(screen: Top, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        assert [row[0] for row in rows(screen, "nodes")] == ["b:1", "a:1"]
        await pilot.press("tab", "s", "s", "s", "r")
        await until(pilot, lambda: [row[3] for row in rows(screen, "engines")] == ["9", "5"])

    play(Cluster(), act)


def test_a_node_is_drained_only_after_a_yes():
    cluster = Cluster()

    async def act(screen: Top, pilot: Pilot[None]) -> None:
        await pilot.press("down", "d")
        await until(pilot, lambda: isinstance(screen.screen, Question))
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(screen.screen, Question))
        assert cluster.orders == []
        await pilot.press("d")
        await until(pilot, lambda: isinstance(screen.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: cluster.orders == [(DRAIN, {"node": "b:1"})])
        await until(pilot, lambda: not isinstance(screen.screen, Question))
        await pilot.press("u")
        await until(pilot, lambda: isinstance(screen.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: cluster.orders[1:] == [(UNDRAIN, {"node": "b:1"})])
        cluster.problem = Refused("0 engines in rotation")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(screen.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: any("0 engines in rotation" in n.message for n in screen._notifications))

    play(cluster, act)


def test_without_textual_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(top.ClusterSource, "status", lambda _: {})
    for name in [n for n in sys.modules if n.startswith("textual")] + ["shoal.cli.top_app"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "textual", None)
    reply = CliRunner().invoke(app, ["top"])
    assert (reply.exit_code, reply.stderr.count("\n")) == (2, 1)
    assert "pip install 'shoal[top]'" in reply.stderr
