import io
from typing import Any

from rich.console import Console

from lib.board import NODE_START, Board, Row, all_ready, hopeless, lost, rows

NAMES = ["127.0.0.1:8000", "127.0.0.1:8001"]


def member(name: str, state: str = "alive", **engine: Any) -> dict[str, Any]:
    engines = [{"id": "m-0", "state": "starting", "detail": "loads", "restarts": 0, "errors": []} | engine]
    return {"name": name, "state": state, "engines": engines if engine else []}


def test_before_any_node_answers_every_node_starts() -> None:
    assert [(r.node, r.state) for r in rows(NAMES, {})] == [(n, "starting") for n in NAMES]


def test_a_row_tells_of_an_engine() -> None:
    found = rows(NAMES[:1], {"members": [member(NAMES[0], restarts=2, errors=["bad"])]})
    assert found == [Row(NAMES[0], "m-0", "starting", "loads", 2, ("bad",))]


def test_ready_means_an_engine_on_every_node() -> None:
    ready = {"members": [{"name": NAMES[0], "state": "alive", "engines": [{"id": "m-0", "state": "ready"}]}]}
    assert not all_ready([])
    assert not all_ready(rows(NAMES, {}))
    assert not all_ready(rows(NAMES, ready))
    assert all_ready(rows(NAMES[:1], ready))


def test_an_engine_that_keeps_failing_is_hopeless() -> None:
    assert hopeless([Row("n", "e", "waiting", "", 3)]) is not None
    assert hopeless([Row("n", "e", "starting", "", 1)]) is None
    assert hopeless([Row("n", "e", "ready", "", 5)]) is None


def test_a_node_is_lost_when_it_is_dead_or_does_not_show_up() -> None:
    dead = rows(NAMES, {"members": [member(NAMES[0], "dead"), member(NAMES[1], id="m-0")]})
    found = lost(dead, 1)
    assert found is not None
    assert found.node == NAMES[0]
    silent = rows(NAMES, {"members": [member(NAMES[0], id="m-0"), {"name": NAMES[1], "state": "unknown"}]})
    assert lost(silent, 1) is None
    assert lost(silent, NODE_START + 1) is not None


def test_without_a_terminal_there_is_a_line_per_change() -> None:
    out = io.StringIO()
    board = Board(Console(file=out, width=200), every=20)
    loading, ready = Row("n", "e", "starting", "loads"), Row("n", "e", "ready", "answers")
    with board:
        for row, elapsed in (
            (loading, 0),
            (loading, 1),
            (loading, 25),
            (loading, 26),
            (ready, 30),
            (ready, 60),
        ):
            board.show([row], elapsed)
    lines = [line.split()[0] for line in out.getvalue().splitlines()]
    assert lines == ["0.0", "25.0", "30.0"]


def test_on_a_terminal_there_is_a_table() -> None:
    out = io.StringIO()
    with Board(Console(file=out, width=100, force_terminal=True)) as board:
        board.show([Row("n", "e", "starting", "loads", 1)], 65)
    assert "started again: 1" in out.getvalue()
    assert "0 of 1 engines ready, 1 min 05 s" in out.getvalue()
