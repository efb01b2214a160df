import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.engine.record import log_path
from shoal.node.link import LinkError
from shoal.node.log_reading import LOGS, LogReading, find
from shoal.node.orders import RefusedError

ME, OTHER = "a:8000", "b:8000"


def member(name: str, *engines: str, state: MemberState = MemberState.ALIVE) -> Member:
    reports = tuple(
        EngineReport(id=e, model="m", kind="sim", state=EngineState.READY, host="127.0.0.1") for e in engines
    )
    report = NodeReport(name=name, version="0", engines=reports)
    return Member(name=name, state=state, age=0.0, is_self=name == ME, report=report)


VIEW = View(me=ME, members=(member(ME, "m-0", "x"), member(OTHER, "m-0", "org/y-0")))


class Client:
    """Notes what other nodes are asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def ask(self, whom: Member, method: str, path: str, arguments: Any) -> Any:
        if arguments["of"].endswith("gone"):
            raise LinkError("it did not answer")
        self.asked.append((whom.name, method, path, arguments))
        return {"lines": ["from there"]}


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def ask(tmp_path: Path, client: Client) -> Callable[..., Any]:
    reading = LogReading(ME, tmp_path, lambda: VIEW, client)  # type: ignore[arg-type]
    handler = reading.handlers()["GET", LOGS]
    return lambda **arguments: asyncio.run(handler(arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (ME, (ME, "")),
        ("x", (ME, "x")),
        ("org/y-0", (OTHER, "org/y-0")),
        ("a:8000/m-0", (ME, "m-0")),
        ("b:8000/org/y-0", (OTHER, "org/y-0")),
    ],
)
def test_what_a_person_means(named: str, found: tuple[str, str]):
    assert find(VIEW, named) == found


def test_a_name_that_is_unclear_or_unknown_is_refused_with_what_there_is():
    with pytest.raises(RefusedError, match="name one of a:8000/m-0, b:8000/m-0"):
        find(VIEW, "m-0")
    with pytest.raises(RefusedError, match="there are: a:8000, b:8000, a:8000/m-0"):
        find(VIEW, "nobody")


def test_lines_of_an_own_engine(ask: Callable[..., Any], tmp_path: Path):
    path = log_path(tmp_path, "x")
    path.parent.mkdir()
    path.write_text("one\ntwo\n")
    told = ask(of="x", lines="1", follow="1")
    assert told == {"node": ME, "of": "a:8000/x", "lines": ["two"], "cursor": "8"}
    with path.open("a") as file:
        file.write("three\n")
    assert ask(of="x", cursor=told["cursor"])["lines"] == ["three"]
    path.write_text(f"INFO {time.strftime('%m-%d %H:%M:%S')} now\n")
    assert ask(of="x", since=str(time.time() - 60))["lines"] == [path.read_text().strip()]
    assert ask(of="x", since=str(time.time() + 60))["lines"] == []


def test_others_are_asked_for_theirs(ask: Callable[..., Any], client: Client):
    assert ask(of="org/y-0", lines="5") == {"lines": ["from there"]}
    assert client.asked == [(OTHER, "GET", LOGS, {"of": "b:8000/org/y-0", "lines": "5"})]
    with pytest.raises(RefusedError, match="node b:8000 does not tell it: it did not answer"):
        ask(of="b:8000/gone")


@pytest.mark.parametrize("arguments", [{}, {"of": "x", "lines": "many"}, {"of": "a:8000/../../secret"}])
def test_bad_questions_are_refused(ask: Callable[..., Any], tmp_path: Path, arguments: Any):
    log_path(tmp_path, "x").parent.mkdir()
    log_path(tmp_path, "x").touch()
    with pytest.raises(RefusedError):
        ask(**arguments)
