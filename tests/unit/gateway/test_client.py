"""The client's side: answers in order, keep-alive, limits, time, back-pressure."""

from __future__ import annotations

import asyncio

import pytest


async def test_keep_alive_serves_many_requests_on_one_connection(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    for _ in range(20):
        reply = await client.request(stage.post())
        assert (reply.status, reply.body, reply.header("connection")) == (200, b"{}", None)
    assert len(engine.seen) == 20
    assert len(engine.connections) == 1, "the engine's connection is kept, too"


async def test_pipelined_requests_are_answered_in_order(stage):
    async def echo(connection, seen):
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(seen.body), seen.body)
        )

    await stage.open(await stage.engine(echo), await stage.engine(echo))
    client = await stage.client()
    bodies = [b'{"model":"m","n":%d}' % n for n in range(30)]
    mixed = b"".join(
        stage.post(body) + (stage.get("/v1/models") if n % 3 == 0 else b"") for n, body in enumerate(bodies)
    )
    await client.send(mixed)
    for n, body in enumerate(bodies):
        assert (await client.reply()).body == body
        if n % 3 == 0:
            assert (await client.reply()).json["object"] == "list"


async def test_pipelined_requests_beyond_a_limit_wait_in_the_kernel(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    await stage.open(engine)
    client = await stage.client()
    total = 3000
    sending = asyncio.create_task(
        client.send(stage.post(b'{"model":"m","p":"%b"}' % (b"x" * 10_000)) * total)
    )
    await stage.until(lambda: any(c._reading_paused for c in stage.gateway.connections))
    (connection,) = stage.gateway.connections
    assert sum(len(request.body) for request in connection._reader.requests) < 1_000_000
    release.set()
    for _ in range(total):
        assert (await client.reply()).status == 200
    await sending


@pytest.mark.parametrize(
    "extra", ["Connection: close\r\n", "Connection: foo, Close\r\n", "Proxy-Connection: close\r\n"]
)
async def test_a_client_that_asks_for_close_gets_it(stage, extra):
    await stage.open(await stage.engine())
    client = await stage.client()
    reply = await client.request(stage.post(extra=extra))
    assert reply.status == 200
    assert reply.header("connection") == "close"
    assert await client.at_end()


async def test_what_follows_the_last_request_of_a_connection_is_not_read(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    await client.send(stage.post(extra="Connection: close\r\n") + stage.post() + b"garbage")
    assert (await client.reply()).status == 200
    assert await client.at_end()
    assert len(engine.seen) == 1


async def test_an_http10_client_gets_a_plain_body_and_a_closed_connection(stage):
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nt: 1\r\n\r\n"
    engine = await stage.engine(chunked)
    await stage.open(engine)
    client = await stage.client()
    reply = await client.request(
        b"POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
    )
    assert reply.body == b"hello world"
    assert reply.header("transfer-encoding") is None
    assert reply.header("connection") == "close"
    assert engine.seen[0].line == b"POST /v1/completions HTTP/1.1", "the gateway speaks for itself upstream"


async def test_head_gets_the_head_only_and_the_connection_goes_on(stage):
    engine = await stage.engine(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    await stage.open(engine)
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(stage.get("/v1/completions", method="HEAD"))
        assert (reply.status, reply.header("content-length")) == (200, "1000")
    for path in ("/v1/models", "/nowhere"):
        reply = await client.request(stage.get(path, method="HEAD"))
        assert int(reply.header("content-length")) > 0
    assert len(engine.connections) == 1


async def test_expect_100_continue_is_met_before_the_body_comes(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    head, body = stage.post(extra="Expect: 100-continue\r\n")[:-13], b'{"model":"m"}'
    for _ in range(2):
        await client.send(head)
        assert (await client.reply()).status == 100
        assert (await client.request(body)).status == 200
    assert engine.seen[0].header(b"expect") is None


async def test_no_100_when_the_body_is_there_already_or_refused(stage):
    await stage.open(await stage.engine(), max_body=100)
    assert (await stage.request(stage.post(extra="Expect: 100-continue\r\n"))).status == 200
    large = stage.post(b"x" * 200, extra="Expect: 100-continue\r\n")[:-200]
    assert (await stage.request(large)).status == 413


async def test_100_continue_waits_for_the_answers_before_it(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    await stage.open(await stage.engine(wait))
    client = await stage.client()
    await client.send(stage.post() + stage.post(extra="Expect: 100-continue\r\n")[:-13])
    await stage.until(lambda: stage.open_requests() == 1)
    release.set()
    assert [(await client.reply()).status for _ in range(2)] == [200, 100]
    assert (await client.request(b'{"model":"m"}')).status == 200


async def test_a_refusal_comes_after_the_answers_before_it(stage):
    await stage.open(await stage.engine())
    client = await stage.client()
    await client.send(stage.post() + stage.get("/v1/models") + b"G@RBAGE\r\n\r\n" + stage.post())
    assert [(await client.reply()).status for _ in range(3)] == [200, 200, 400]
    assert await client.at_end()


async def test_a_slow_head_gets_408(stage):
    await stage.open(await stage.engine(), header_timeout=0.2)
    client = await stage.client()
    await client.send(b"POST /v1/completions HTTP/1.1\r\nHost: g\r\n")
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")
    assert await client.at_end()


async def test_a_dripping_head_does_not_move_its_deadline(stage):
    await stage.open(await stage.engine(), header_timeout=0.3)
    client = await stage.client()
    reply = asyncio.create_task(client.reply())
    for byte in b"GET /v1/models HTTP/1.1\r\nX: " + b"y" * 10_000:
        if reply.done():
            break
        client.writer.write(bytes([byte]))
        await asyncio.wait((reply,), timeout=0.01)
    assert (await reply).status == 408


async def test_a_body_that_stops_coming_gets_408(stage):
    await stage.open(await stage.engine(), idle_timeout=0.2)
    client = await stage.client()
    await client.send(stage.post()[:-5])
    assert (await client.reply()).status == 408


async def test_an_idle_connection_is_closed_without_a_word(stage):
    await stage.open(await stage.engine(), idle_timeout=0.2)
    fresh, used = await stage.client(), await stage.client()
    assert (await used.request(stage.post())).status == 200
    assert await fresh.at_end()
    assert await used.at_end()


async def test_a_client_that_disconnects_aborts_its_request(stage):
    async def hang(connection, _):
        await connection.wait_closed()

    engine = await stage.engine(hang)
    await stage.open(engine)
    for number, leave in enumerate(("close", "reset"), start=1):
        client = await stage.client()
        await client.send(stage.post())
        # A request is open before its engine has taken the connection.
        await stage.until(lambda n=number: stage.open_requests() == 1 and len(engine.connections) == n)
        getattr(client, leave)()
        await stage.until(lambda: engine.connections[-1].closed)
        assert stage.open_requests() == 0
    assert stage.metrics.totals().client_disconnects == 2
    assert stage.faults == []


async def test_a_client_that_disconnects_in_a_stream_aborts_it(stage):
    async def stream(connection, _):
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await connection.wait_closed()

    engine = await stage.engine(stream)
    await stage.open(engine)
    client = await stage.client()
    await client.send(stage.post(b'{"model":"m","stream":true}'))
    await client.reader.readuntil(b"hello\r\n")
    client.close()
    await stage.until(lambda: engine.connections[0].closed)
    assert stage.open_requests() == 0


async def test_a_client_that_does_not_read_does_not_grow_memory(stage):
    sent = 0
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    async def flood(connection, _):
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(1000):  # 64 MiB
            await connection.send(chunk)
            sent += len(chunk)
        await connection.send(b"0\r\n\r\n")

    await stage.open(await stage.engine(flood))
    client = await stage.client()
    client.writer.transport.pause_reading()
    await client.send(stage.post())
    await stage.until(lambda: any(c.write_paused for c in stage.gateway.connections))
    (connection,) = stage.gateway.connections
    await stage.until_still(lambda: sent)  # everything between here and there is full
    assert connection._transport.get_write_buffer_size() < 1 << 20
    assert sent < 32 << 20
    client.writer.transport.resume_reading()
    assert len((await client.reply()).body) == 1000 * 0x10000


async def test_pipelined_answers_stop_while_the_client_does_not_read(stage):
    table = stage.table({}, models_body=b"x" * 100_000)
    await stage.open(table=table)
    client = await stage.client()
    client.writer.transport.pause_reading()
    total = 4000
    sending = asyncio.create_task(client.send(stage.get("/v1/models", "X: " + "y" * 3000 + "\r\n") * total))
    await stage.until(lambda: any(c._reading_paused for c in stage.gateway.connections))
    (connection,) = stage.gateway.connections
    await stage.until_still(lambda: len(connection._reader.requests))
    assert len(connection._reader.requests) < 1000
    assert connection._transport.get_write_buffer_size() < 1 << 20
    client.writer.transport.resume_reading()
    for _ in range(total):
        assert len((await client.reply()).body) == 100_000
    await sending


async def test_a_client_that_reads_nothing_for_long_is_cut_off(stage):
    async def flood(connection, _):
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    engine = await stage.engine(flood)
    await stage.open(engine, idle_timeout=0.4)
    client = await stage.client()
    client.writer.transport.pause_reading()
    await client.send(stage.post())
    await stage.until(lambda: stage.open_requests() == 1)
    await stage.until(lambda: stage.open_requests() == 0)
    assert not stage.gateway.connections


async def test_a_body_is_forwarded_byte_for_byte(stage):
    engine = await stage.engine()
    await stage.open(engine)
    body = b'{ "model" :"m",\n"unknown": {"deep": [1.50, 1e3, "\\u00e9", "\xc3\xa9"]},"model":"m"}  '
    await stage.request(stage.post(body))
    assert engine.seen[0].body == body


async def test_chunked_bodies_arrive_in_one_piece_without_trailers(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(
            b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Evil\r\n\r\n"
            b'5;ext="a;b"\r\n{"mod\r\n8\r\nel":"m"}\r\n0\r\nX-Evil: 1\r\n\r\n'
        )
        assert reply.status == 200
    assert [seen.body for seen in engine.seen] == [b'{"model":"m"}'] * 2
    assert engine.seen[0].header(b"content-length") == b"13"
    assert engine.seen[0].header(b"transfer-encoding") is None
    assert engine.seen[0].header(b"x-evil") is None
    assert engine.seen[0].header(b"trailer") is None


async def test_a_large_body_goes_through(stage):
    engine = await stage.engine()
    await stage.open(engine)
    body = b'{"model":"m","p":"%b"}' % (b"x" * 10_000_000)
    assert (await stage.request(stage.post(body))).status == 200
    assert engine.seen[0].body == body


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_gets_413(stage, chunked):
    engine = await stage.engine()
    await stage.open(engine, max_body=1000)
    client = await stage.client()
    if chunked:
        chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
        await client.send(
            b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 11
        )
    else:
        await client.send(stage.post(b"x" * 1001)[:-500])
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert reply.header("connection") == "close"
    assert await client.at_end()
    assert engine.seen == []


async def test_a_refused_client_can_still_send_and_then_read_its_answer(stage):
    await stage.open(await stage.engine(), max_body=1000)
    client = await stage.client()
    await client.send(stage.post(b"x" * 5_000_000))
    assert (await client.reply()).status == 413


async def test_an_upgrade_is_declined_and_the_request_answered(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    extra = (
        "Connection: Upgrade, HTTP2-Settings, X-Hop\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nX-Hop: 1\r\n"
    )
    for _ in range(2):
        assert (await client.request(stage.post(extra=extra))).status == 200
    seen = engine.seen[1]
    assert seen.body == b'{"model":"m"}'
    assert {name for name, _ in seen.headers} == {b"host", b"content-type", b"content-length"}


async def test_draining_closes_idle_connections_and_those_that_finish(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    await stage.open(await stage.engine(wait), header_timeout=0.2)
    idle, busy = await stage.client(), await stage.client()
    await busy.send(stage.post())
    await stage.until(lambda: stage.open_requests() == 1 and len(stage.gateway.connections) == 2)
    stage.gateway.drain(1.0)
    release.set()
    reply = await busy.reply()
    assert (reply.status, reply.header("connection")) == (200, "close")
    assert await busy.at_end()
    assert await idle.at_end()


async def test_a_draining_table_closes_connections_after_the_answer(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    assert (await client.request(stage.post())).header("connection") is None
    stage.gateway.apply(stage.table({"m": stage.route(engine)}, draining=True))
    assert (await client.request(stage.post())).header("connection") == "close"
    assert await client.at_end()


async def test_open_connections_are_counted(stage):
    await stage.open(await stage.engine())
    clients = [await stage.client() for _ in range(5)]
    await stage.until(lambda: stage.metrics.totals().open_connections == 5)
    for client in clients:
        client.close()
    await stage.until(lambda: stage.metrics.totals().open_connections == 0)
    assert stage.metrics.totals().connections == 5
