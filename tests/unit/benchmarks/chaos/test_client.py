"""The client against servers that do one thing wrong each."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from benchmarks.chaos import client
from benchmarks.chaos.questions import question
from benchmarks.chaos.results import Request
from benchmarks.chaos.verify import Outcome, judge

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"4\r\n: x\n\r\n"
ASKED = next(q for q in map(question, range(9)) if q.streamed)


def exchange(handler: Handler, silence: float = 5.0) -> tuple[client.Exchange, Request]:
    async def run() -> tuple[client.Exchange, Request]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]
        request = Request(0, 0, 0.0)
        data = client.head(ASKED, "127.0.0.1")
        async with server:
            return await client.ask(address, data, request, silence), request

    return asyncio.run(run())


def test_a_connection_that_is_cut_is_a_broken_stream_and_its_port_is_known() -> None:
    ports = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        ports.append(writer.get_extra_info("peername")[1])
        writer.write(HEAD + EVENT)
        await writer.drain()
        writer.close()

    found, request = exchange(cut)
    assert (found.status, found.cut) == (200, "connection closed")
    assert judge(ASKED, found.status, b"".join(found.body), found.cut).outcome is Outcome.BROKEN
    assert request.port == ports[0]


def test_a_silent_server_is_given_up_and_the_silence_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(client, "LONG_PAUSE", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + EVENT)
        await reader.read()  # until the client goes
        writer.close()

    found, request = exchange(hang, silence=0.5)
    assert found.cut.startswith("no byte for")
    (pause,) = request.pauses
    assert pause.end - pause.begin >= 0.5


def test_nobody_listening_is_a_failure() -> None:
    async def run() -> client.Exchange:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]
        server.close()
        await server.wait_closed()
        return await client.ask(address, b"", Request(0, 0, 0.0), 5)

    found = asyncio.run(run())
    assert found.status is None
    assert found.cut == "cannot connect: ConnectionRefusedError"
