from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.routing.client import Client, Reply, read_reply
from benchmarks.routing.generated import MULTI_TURN, generate
from benchmarks.routing.run import Engines
from benchmarks.routing.workload import Session, Turn, Workload


def reply(*body: bytes, status: int = 200, complete: bool = True) -> Reply:
    async def make() -> Reply:
        return Reply()

    made = asyncio.run(make())
    made.status, made.body, made.complete = status, list(body), complete
    return made


EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


def test_a_stream_gives_its_text_and_what_was_cached() -> None:
    whole = reply(EVENT % (b"a", b"null"), EVENT % (b"b", b'"length"'), USAGE)
    assert read_reply(whole) == ("ab", 9, 4, "")


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (reply(complete=False), "no answer"),
        (reply(EVENT % (b"a", b"null"), complete=False), "the connection ended after"),
        (reply(b"no engine", status=503), "status 503: no engine"),
        (reply(EVENT % (b"a", b"null")), "the stream has no end"),
        (reply(b'data: {"error":{"message":"lost"}}\n\n'), "an error in the stream"),
        (reply(b"data: {broken\n\n"), "an event is no JSON"),
    ],
)
def test_whatever_is_not_a_whole_stream_is_an_error(made: Reply, wanted: str) -> None:
    assert read_reply(made)[3].startswith(wanted)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    started = Engines(tmp_path, 0)
    with contextlib.closing(socket.socket()):
        yield started
    started.stop()


def test_a_workload_is_run_to_its_end_and_engines_and_clients_agree_on_hits(engines: Engines) -> None:
    workload = generate(MULTI_TURN, 20, 400.0, seed=5)

    async def run() -> None:
        assert (await engines.ask("begin"))["engines"] == len(engines.ports)
        client = Client(workload, engines.ports[:2], 60.0)
        await client.run()
        seen = await engines.ask("end")
        assert [one.error for one in client.answered] == [""] * workload.requests
        assert all(one.first is not None and 0 < one.first < one.end for one in client.answered)
        assert sum(e["queries"] for e in seen["engines"]) == sum(one.prompt for one in client.answered)
        hits = sum(e["hits"] for e in seen["engines"])
        assert hits == sum(one.cached for one in client.answered) > 0
        assert [e["requests"] > 0 for e in seen["engines"]] == [True, True] + [False] * 6
        assert seen["looks"] and seen["late"] and seen["open"] == [0] * len(engines.ports)

    asyncio.run(run())


def test_what_cannot_be_sent_is_an_error_for_the_whole_session() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # nobody listens
        turns = (Turn(0, "a", 1), Turn(0, "b", 1))
        client = Client(Workload("w", [Session("s", 0.0, "x", turns)], 1), [sock.getsockname()[1]], 5.0)
        asyncio.run(client.run())
    first, second = (one.error for one in client.answered)
    assert first.startswith("no connection")
    assert second.startswith("not sent")
