"""Back-pressure in a real worker process: whoever does not read makes the other end wait, not the worker grow."""

from __future__ import annotations

import asyncio

import pytest

from shoal.gateway.coalescing import MANY

MIB = 1 << 20


@pytest.mark.parametrize("clients", [4, MANY])
async def test_backpressure_of_a_client_that_does_not_read_a_large_stream(stage, worker, clients):
    total, sent = 100 * MIB, 0
    event = b"data: " + b"x" * 65_000 + b"\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(event), event)

    async def flood(connection, _):
        nonlocal sent
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(total // len(chunk)):
            await connection.send(chunk)
            sent += len(chunk)
        await connection.send(b"0\r\n\r\n")

    await worker.start(await stage.engine(flood))
    before = worker.memory()
    readers = [await stage.client() for _ in range(clients)]
    for client in readers:
        client.writer.transport.pause_reading()
        await client.send(stage.post(b'{"model":"m","stream":true}'))
    await stage.until(lambda: sent > clients * MIB)
    await stage.until_still(lambda: sent)
    assert sent < clients * total / 4, "the engines wait"
    assert worker.memory() - before < clients * 4 * MIB
    readers[0].writer.transport.resume_reading()
    received = 0
    while received < total / 2:
        received += len(await readers[0].reader.read(MIB))
    assert worker.memory() - before < clients * 4 * MIB, "nor does it grow while one of them reads"
    assert (await (await stage.client()).request(stage.get("/version"))).status == 200


async def test_backpressure_of_an_engine_that_does_not_read_a_large_body(stage, worker):
    size = 32 * MIB
    release = asyncio.Event()
    taken: list[int] = []

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        await release.wait()
        writer.transport.resume_reading()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"%d" % size in head
        taken.append(len(await reader.readexactly(size)))
        writer.write(stage.OK)

    upstream = await asyncio.start_server(read_late, "127.0.0.1", 0, limit=1 << 20)
    engine = await stage.dead_engine()
    engine.port = upstream.sockets[0].getsockname()[1]
    await worker.start(engine)
    before = worker.memory()
    client = await stage.client()
    body = b'{"model":"m","prompt":"'
    body += b"x" * (size - len(body) - 2) + b'"}'
    await client.send(stage.post(body))
    pipelined = asyncio.ensure_future(client.send(stage.post(body) * 4))
    grown: list[int] = []

    def growth() -> int:
        grown.append(worker.memory() - before)
        return grown[-1] // MIB

    await stage.until(lambda: growth() >= size // MIB)
    await stage.until_still(growth)
    # The request, which may have to be sent again, and what waits in the socket's queue; one more while the pieces are
    # put together. Nothing of the requests behind it.
    assert grown[-1] < 2.5 * size
    assert max(grown) < 3.5 * size
    assert not pipelined.done()
    release.set()
    assert (await client.reply("POST")).status == 200
    assert taken[0] == size
    pipelined.cancel()
    upstream.close()
