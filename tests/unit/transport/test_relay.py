"""The relay between a worker's unix socket and an engine, with a carrier that stays in the process."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.front import Front, FrontConnection
from shoal.transport.loopback import Loopback
from support.relay import DEADLINE, engine, engine_at, relay

REQUEST = b"POST /v1/x?y=1 HTTP/1.1\r\nhost: h\r\nX-Thing: a\r\ncontent-length: 2\r\n\r\nhi"


async def ask(path: Path, request: bytes = REQUEST) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(str(path / "e.sock"))
    writer.write(request)
    return reader, writer


def run(work) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await work

    asyncio.run(bounded())


def test_a_request_and_its_answer_pass_as_they_are(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer(request, _, writer) -> None:
        seen.append(request)
        writer.write(
            b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nx-a: b\r\nconnection: keep-alive\r\n\r\nyes"
        )

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]) as told:
            reader, writer = await ask(tmp_path)
            for _ in range(3):  # over one connection
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 201 ")
                assert b"content-length: 3" in head
                assert b"x-a: b" in head
                assert b"connection" not in head
                assert await reader.readexactly(3) == b"yes"
                writer.write(REQUEST)
            await told.wait(lambda _: told.counts.asked.get("carried", 0) >= 3 and told.counts.served >= 3)
            assert told.counts.asked.keys() == {"carried"}

    run(work())
    assert seen[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")
    assert seen[0].endswith(b"\r\n\r\nhi")
    assert b"x-thing: a" in seen[0]


def test_each_chunk_goes_on_at_once(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def answer(_, __, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none,\r\n")
        await go.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]):
            reader, _ = await ask(tmp_path)
            await reader.readuntil(b"4\r\none,\r\n")
            go.set()
            assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"

    run(work())


def test_a_client_that_goes_ends_its_request_at_the_engine(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def answer(_, reader, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        assert await reader.read() == b""
        gone.set()

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]):
            reader, writer = await ask(tmp_path)
            await reader.readuntil(b"1\r\na\r\n")
            writer.close()
            await gone.wait()

    run(work())


def test_a_client_that_reads_slowly_pauses_the_engine(tmp_path: Path) -> None:
    sent = 0
    blocked = asyncio.Event()
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"

    async def answer(_, __, writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(400):  # 26 MB: more than all buffers on the way
            writer.write(piece)
            try:
                async with asyncio.timeout(1.0):
                    await writer.drain()
            except TimeoutError:
                blocked.set()
                await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]):
            reader, _ = await ask(tmp_path)
            await blocked.wait()
            assert sent < 300
            body = bytearray()
            while not body.endswith(b"0\r\n\r\n"):
                body += await reader.read(1 << 20)
            assert len(body) > 400 * 0x10000

    run(work())


@pytest.mark.parametrize("rest", [b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha"])
def test_an_engine_that_breaks_off_breaks_the_answer_off(tmp_path: Path, rest: bytes) -> None:
    async def answer(_, __, writer) -> None:
        writer.write(rest)
        await writer.drain()
        writer.transport.abort()

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]):
            reader, _ = await ask(tmp_path)
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")

    run(work())


def test_what_changes_its_protocol_goes_to_the_engine_as_it_is(tmp_path: Path) -> None:
    async def answer(request, reader, writer) -> None:
        assert b"upgrade: websocket" in request
        writer.write(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        writer.write((await reader.readexactly(4)).upper())
        await writer.drain()
        writer.close()

    async def work() -> None:
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]):
            head = (
                b"GET /v1/realtime HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            )
            reader, writer = await ask(tmp_path, head)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"ping")
            assert await reader.read() == b"PING"

    run(work())


def deadline_of(headers: bytes, max_wait: float = 60.0) -> float | None:
    """Return the seconds from now by which a request with these header lines must be begun."""
    calls: list[Call] = []
    front = Front("n:1/m-0", "m", "", _kept(calls), _no_connection, max_wait=max_wait)

    async def work() -> None:
        connection = FrontConnection(front)
        connection.connection_made(_Nowhere())
        connection.data_received(
            b"POST /v1/x HTTP/1.1\r\nhost: h\r\n" + headers + b"content-length: 0\r\n\r\n"
        )
        await asyncio.gather(*(t for t in asyncio.all_tasks() if t is not asyncio.current_task()))

    before = time.time()
    asyncio.run(work())
    deadline = calls[0].deadline
    return None if deadline is None else deadline - before


def _kept(calls: list[Call]) -> Callable[[Call], Awaitable[Answer]]:
    async def ask(call: Call) -> Answer:
        calls.append(call)
        raise CarrierError("enough is known")

    return ask


async def _no_connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raise AssertionError


class _Nowhere(asyncio.Transport):
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (b"", 60.0),
        (b"prefer: wait=7\r\n", 7.0),
        (b"prefer: wait=700\r\n", 60.0),
        (b"x-shoal-priority: -2\r\n", 60.0),
        (b"x-shoal-priority: batch\r\n", None),
        (b"x-shoal-priority: batch\r\nprefer: wait=700\r\n", 700.0),
    ],
)
def test_a_request_waits_in_a_queue_as_long_as_in_a_gateway(headers: bytes, wait: float | None) -> None:
    found = deadline_of(headers)
    if wait is None:
        assert found is None
    else:
        assert found is not None
        assert wait <= found < wait + DEADLINE


def test_what_nobody_began_in_time_is_not_run_but_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def carry(*_: object) -> Answer:
        raise CarrierError("nobody began with it", unsent=True)

    async def answer(*_: object) -> None:
        raise AssertionError("it has gone to the engine")

    async def work() -> None:
        monkeypatch.setattr(Loopback, "call", carry)
        async with engine(answer) as port, relay([engine_at(port, tmp_path)], max_wait=0.0) as told:
            reader, _ = await ask(tmp_path)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            assert b"queue_timeout" in await reader.readexactly(length)
            await told.wait(lambda _: told.counts.asked == {"late": 1})

    run(work())


def test_what_the_carrier_does_not_carry_goes_to_the_engine_by_tcp_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def carry(*_: object) -> Answer:
        raise CarrierError("the way is closed", unsent=True)

    async def answer(_, __, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes")

    async def work() -> None:
        monkeypatch.setattr(Loopback, "call", carry)
        async with engine(answer) as port, relay([engine_at(port, tmp_path)]) as told:
            reader, _ = await ask(tmp_path)
            assert (await reader.readuntil(b"yes")).startswith(b"HTTP/1.1 200 ")
            await told.wait(lambda _: told.counts.asked == {"by_tcp": 1})
        async with relay([engine_at(1, tmp_path)]) as told:
            reader, _ = await ask(tmp_path)
            assert await reader.read() == b""  # the gateway tries another way
            await told.wait(lambda _: told.counts.asked == {"failed": 1})
            assert told.counts.served == 0

    run(work())


def test_a_carrier_that_cannot_start_is_told_of_with_the_reason_and_nothing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(_: Loopback) -> None:
        await asyncio.sleep(0.3)  # three looks at the carrier
        raise CarrierError("nobody listens there")

    not_yet = property(lambda _: "it has not been started", lambda _, __: None)
    monkeypatch.setattr(Loopback, "trouble", not_yet, raising=False)
    monkeypatch.setattr(Loopback, "start", start)

    async def work() -> None:
        async with relay([engine_at(1, tmp_path)]) as running:
            assert running.troubles == ["nobody listens there"]

    run(work())
