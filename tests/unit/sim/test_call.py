from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shoal.sim.call import Call
from shoal.sim.generation import ClientGoneError


class Connection:
    lost = False
    on_gone = None


def make(messages: list[dict[str, Any]], sent: list[dict[str, Any]]) -> Call:
    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"x-first", b"1"), (b"x-twice", b"a"), (b"x-twice", b"b")]
    scope = {"path": "/p", "method": "POST", "headers": headers, "state": {"connection": Connection()}}
    return Call(scope, receive, send)


def part(data: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_is_read_whole() -> None:
    assert asyncio.run(make([part(b"ab", True), part(b"cd", False)], []).body()) == b"abcd"
    assert asyncio.run(make([part(b"ab", False)], []).body()) == b"ab"


def test_a_body_that_breaks_off_is_told() -> None:
    with pytest.raises(ClientGoneError):
        asyncio.run(make([part(b"ab", True), {"type": "http.disconnect"}], []).body())


def test_the_first_of_several_headers_counts() -> None:
    assert make([], []).headers == {b"x-first": b"1", b"x-twice": b"a"}


def test_responses_have_a_length_and_streams_an_end() -> None:
    sent: list[dict[str, Any]] = []

    async def scenario() -> None:
        call = make([], sent)
        await call.respond(200, b"{}")
        await call.start_stream()
        await call.send(b"x")
        await call.end_stream(b"y")

    asyncio.run(scenario())
    assert (b"content-length", b"2") in sent[0]["headers"]
    assert [message.get("body") for message in sent] == [None, b"{}", None, b"x", b"y", b""]
    assert [message.get("more_body", False) for message in sent[3:]] == [True, True, False]


def test_waiting_for_the_client_to_leave_ends_when_it_left() -> None:
    async def scenario() -> None:
        call = make([], [])
        waiting = asyncio.ensure_future(call.client_gone())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert call.connection.on_gone is not None
        call.connection.on_gone()
        await waiting
        call.connection.lost = True
        await call.client_gone()

    asyncio.run(scenario())
