"""WebSocket upgrades: routed by model, passed through in both directions, counted and released."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus

from shoal.gateway.counters import Cell

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n"


def ask(target: str = "/v1/realtime?model=m", extra: str = "", method: str = "GET", body: str = "") -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n{body}"
    ).encode()


async def echo(connection, _):
    """An engine that changes the protocol, and then sends back what it gets."""
    await connection.send(SWITCHING + b"hello")
    while data := await connection.reader.read(65536):
        await connection.send(data)
    connection.closed = True


async def test_bytes_pass_both_ways_after_the_upgrade(stage):
    engine = await stage.engine(echo)
    await stage.open(engine)
    client = await stage.client()
    await client.send(ask(extra="Sec-WebSocket-Protocol: realtime\r\n"))
    reply = await client.reply()
    assert (reply.status, reply.header("upgrade"), reply.header("connection")) == (
        101,
        "websocket",
        "upgrade",
    )
    assert (reply.header("x"), reply.header("x-shoal-engine")) == ("y", "n0/m")
    assert await client.reader.readexactly(5) == b"hello"
    (seen,) = engine.seen
    assert seen.line == b"GET /v1/realtime?model=m HTTP/1.1"
    assert (seen.header(b"upgrade"), seen.header(b"connection")) == (b"websocket", b"upgrade")
    assert seen.header(b"sec-websocket-protocol") == b"realtime"
    for data in (b"x", bytes(range(256)) * 1000, stage.post()):  # the last is bytes like any others
        await client.send(data)
        assert await client.reader.readexactly(len(data)) == data
    assert stage.open_requests() == 1
    client.close()
    await stage.until(lambda: engine.connections[0].closed)
    await stage.until(lambda: stage.open_requests() == 0)
    totals = stage.metrics.totals()
    assert totals.requests["2xx", True] == 1
    assert (totals.client_disconnects, totals.upstream_faults, len(engine.seen)) == (0, 0, 1)


async def test_the_engine_closing_ends_the_clients_side(stage):
    async def hang_up(connection, _):
        await connection.send(SWITCHING + b"bye" * 100_000)
        connection.writer.close()

    await stage.open(await stage.engine(hang_up))
    client = await stage.client()
    await client.send(ask())
    assert (await client.reply()).status == 101
    assert await client.reader.read() == b"bye" * 100_000
    await stage.until(lambda: not stage.gateway.connections)
    assert stage.open_requests() == 0
    assert stage.metrics.totals().requests["2xx", True] == 1


async def test_an_answer_that_is_no_101_passes_through_and_the_connection_ends(stage):
    refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
    engine = await stage.engine(refusal)
    await stage.open(engine)
    client = await stage.client()
    reply = await client.request(ask())
    assert (reply.status, reply.body, reply.header("connection")) == (403, b"no", "close")
    assert await client.at_end()
    assert stage.open_requests() == 0
    assert (await stage.request(stage.post())).status == 403, "the engine's connection is used again"
    assert len(engine.connections) == 1


async def test_an_upgrade_is_tried_elsewhere_when_an_engine_is_away(stage):
    dead, live = await stage.dead_engine(), await stage.engine(echo)
    await stage.open(dead, live)
    for _ in range(2):
        client = await stage.client()
        await client.send(ask("/v1/realtime"))
        assert (await client.reply()).status == 101
    assert stage.metrics.totals().retries == 1


async def test_the_model_in_the_query_decides(stage):
    a, b = await stage.engine(echo), await stage.engine(echo)
    routes = {"org/a": stage.route(a, model="org/a"), "b": stage.route(b, model="b")}
    await stage.open(table=stage.table(routes))
    for query, status in (("model=org%2Fa", 101), ("x=y&model=b", 101), ("model=c", 404), ("", 400)):
        client = await stage.client()
        await client.send(ask(f"/v1/realtime?{query}"))
        assert (await client.reply()).status == status, query
    assert (len(a.seen), len(b.seen)) == (1, 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: g\r\n\r\n", 426),
        (ask(method="POST"), 426),
        (ask(extra="Content-Length: 2\r\n", body="hi"), 426),
        (ask(extra="Upgrade: h2c\r\n"), 426),
        (ask(body="early"), 400),
        (ask("/v1/models"), 200),
        (ask().replace(b"Host: gateway\r\n", b""), 400),
    ],
)
async def test_what_is_no_proper_upgrade_opens_no_tunnel(stage, data, status):
    engine = await stage.engine(echo)
    await stage.open(engine)
    client = await stage.client()
    await client.send(data)
    assert (await client.reply()).status == status
    assert engine.seen == []


async def test_a_protocol_change_that_nobody_asked_for_is_a_fault(stage):
    await stage.open(await stage.engine(echo))
    assert (await stage.request(stage.post())).status == 502


async def test_a_client_that_goes_away_before_the_answer_is_noticed(stage):
    async def hang(connection, _):
        await connection.wait_closed()

    engine = await stage.engine(hang)
    await stage.open(engine)
    for leave in ("close", "reset"):
        client = await stage.client()
        await client.send(ask())
        await stage.until(lambda: stage.open_requests() == 1)
        getattr(client, leave)()
        await stage.until(lambda: stage.open_requests() == 0)
    await stage.until(lambda: all(connection.closed for connection in engine.connections))
    assert stage.metrics.totals().client_disconnects == 2


async def test_bytes_sent_before_the_answer_reach_the_engine_after_it_or_nobody(stage):
    release = asyncio.Event()

    async def late(connection, seen):
        await release.wait()
        await echo(connection, seen)

    engine = await stage.engine(late)
    await stage.open(engine)
    client = await stage.client()
    await client.send(ask())
    await stage.until(lambda: engine.seen)
    await client.send(stage.post())
    release.set()
    assert (await client.reply()).status == 101
    assert await client.reader.readexactly(5) == b"hello"
    assert await client.reader.readexactly(len(stage.post())) == stage.post()
    assert len(engine.seen) == 1, "no second request for the gateway"


async def test_backpressure_of_a_tunnel_holds_both_ways(stage):
    sent = 0
    release = asyncio.Event()

    async def flood_then_read(connection, _):
        nonlocal sent
        connection.writer.transport.pause_reading()
        await connection.send(SWITCHING)
        for _ in range(1000):
            await connection.send(b"x" * 65536)
            sent += 65536
        await release.wait()
        connection.writer.transport.resume_reading()
        while await connection.reader.read(65536):
            pass

    await stage.open(await stage.engine(flood_then_read))
    client = await stage.client()
    await client.send(ask())
    assert (await client.reply()).status == 101
    client.writer.transport.pause_reading()
    pushed = 0

    async def push() -> None:
        nonlocal pushed
        for _ in range(1000):
            await client.send(b"y" * 65536)
            pushed += 65536

    pushing = asyncio.create_task(push())
    await stage.until_still(lambda: (sent, pushed))
    (connection,) = stage.gateway.connections
    assert max(sent, pushed) < 32 << 20, "both wait"
    assert connection._transport.get_write_buffer_size() < 1 << 20
    assert connection._tunnel.get_write_buffer_size() < 1 << 20
    client.writer.transport.resume_reading()
    received = 0
    while received < 1000 * 65536:
        received += len(await client.reader.read(1 << 20))
    release.set()
    await pushing
    assert pushed == 1000 * 65536


async def test_a_tunnel_client_that_does_not_read_is_cut_off(stage):
    async def flood(connection, _):
        await connection.send(SWITCHING)
        while True:
            await connection.send(b"x" * 65536)

    await stage.open(await stage.engine(flood), idle_timeout=0.4)
    client = await stage.client()
    await client.send(ask())
    client.writer.transport.pause_reading()
    await stage.until(lambda: stage.metrics.row(0)[Cell.CONNECTIONS] and not stage.gateway.connections)
    assert stage.open_requests() == 0


async def test_an_idle_tunnel_stays_open(stage):
    await stage.open(await stage.engine(echo), idle_timeout=0.1, header_timeout=0.1)
    client = await stage.client()
    await client.send(ask())
    assert (await client.reply()).status == 101
    await client.reader.readexactly(5)
    ticks = stage.gateway.coarse_now
    await stage.until(lambda: stage.gateway.coarse_now > ticks + 0.5)
    await client.send(b"still here")
    assert await client.reader.readexactly(10) == b"still here"


async def test_a_websocket_library_on_both_sides_is_satisfied(stage):
    async def handler(socket):
        assert socket.request.path == "/v1/realtime?model=m"
        async for message in socket:
            await socket.send(message)

    async with serve(handler, "127.0.0.1", 0) as server:
        engine = await stage.dead_engine()
        engine.port = server.sockets[0].getsockname()[1]
        await stage.open(engine)
        url = f"ws://127.0.0.1:{stage.port}/v1/realtime?model="
        async with connect(url + "m") as socket:
            for message in ("hello", b"\0" * 500_000, "{}"):
                await socket.send(message)
                assert await socket.recv() == message
            await (await socket.ping())
        assert socket.close_code == 1000
        with pytest.raises(InvalidStatus, match="404"):
            await connect(url + "unknown")
    await stage.until(lambda: stage.open_requests() == 0)
