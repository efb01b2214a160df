"""The life of a forwarded request: retries, what passes through, what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

import pytest

from shoal.gateway.exchange import Dechunker
from shoal.routing.table import ModelRoute

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def resetting(data: bytes = b""):
    """An engine that sends `data` and resets the connection."""

    async def behave(connection, _):
        if data:
            await connection.send(data)
        connection.reset()

    return behave


async def test_the_answer_names_the_engine_and_passes_as_it_came(stage):
    raw = (
        b"HTTP/1.1 200 Fine\r\nDate: today\r\nX-Odd:  two  spaces \r\ncontent-type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"8\r\ndata: 1\n\r\n09;ext=1\r\ndata: 22\n\r\n0\r\n\r\n"
    )
    await stage.open(await stage.engine(raw))
    reply = await stage.request(stage.post())
    head, _, body = reply.raw.partition(b"\r\n\r\n")
    assert head == raw.partition(b"\r\n\r\n")[0] + b"\r\nx-shoal-engine: n0/m"
    assert body == raw.partition(b"\r\n\r\n")[2], "chunks are not touched"


async def test_the_request_passes_as_it_came_without_hop_by_hop_fields(stage):
    engine = await stage.engine()
    await stage.open(engine)
    extra = (
        "X-Request-Id:  a  b \r\nAuthorization: Bearer sk\r\nconnection: keep-alive, X-Private\r\nx-private: 1\r\n"
        "Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\n"
        "Trailer: X\r\nAccept: */*\r\nAccept: text/plain\r\n"
    )
    await stage.request(stage.post(extra=extra, path="/v1/chat/completions?a=b%20c"))
    assert engine.seen[0].head == (
        b"POST /v1/chat/completions?a=b%20c HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        b"X-Request-Id:  a  b \r\nAuthorization: Bearer sk\r\nAccept: */*\r\nAccept: text/plain\r\nContent-Length: 13"
    )


async def test_fields_that_frame_or_route_cannot_be_taken_out_by_connection(stage):
    engine = await stage.engine()
    await stage.open(engine)
    extra = "Connection: Host, Content-Length, Authorization\r\nAuthorization: Bearer sk\r\n"
    assert (await stage.request(stage.post(extra=extra))).status == 200
    seen = engine.seen[0]
    assert (seen.header(b"host"), seen.header(b"authorization")) == (b"gateway", b"Bearer sk")
    assert seen.body == b'{"model":"m"}'


async def test_an_external_engine_gets_its_path_host_and_key(stage):
    engine = await stage.engine()
    route = stage.route(engine, base_path="/prefix/", host_header="api.example", api_key="secret")
    await stage.open(table=stage.table({"m": route}))
    await stage.request(stage.post(extra="Authorization: Bearer client\r\n", path="/v1/completions?x=1"))
    seen = engine.seen[0]
    assert seen.line == b"POST /prefix/v1/completions?x=1 HTTP/1.1"
    assert seen.header(b"host") == b"api.example"
    assert seen.header(b"authorization") == b"Bearer secret"


async def test_a_refused_connection_moves_the_request_to_another_engine(stage):
    dead, live = await stage.dead_engine(), await stage.engine()
    await stage.open(dead, live)
    reply = await stage.request(stage.post())
    assert (reply.status, reply.header("x-shoal-engine"), reply.header("x-shoal-attempts")) == (
        200,
        "n1/m",
        "2",
    )
    assert [(fault.engine, fault.reason, fault.count) for fault in stage.faults] == [
        ("n0/m", "connection refused", 1)
    ]
    assert stage.metrics.totals().retries == 1
    assert stage.metrics.per_engine(0) == (1, 1)
    assert stage.metrics.per_engine(1) == (1, 0)


@pytest.mark.parametrize(
    "failure",
    [
        resetting(),
        resetting(b"HTTP/1.1 200 OK\r\ncontent-le"),
        resetting(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
        "close",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: a\n\n",
        b"HTTP/1.1 999 Hm\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000,
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_a_failure_before_the_answer_moves_the_request(stage, failure):
    failing = await stage.engine(stage.answer_then_close(b"") if failure == "close" else failure)
    live = await stage.engine()
    await stage.open(failing, live)
    client = await stage.client()
    await client.send(stage.post())
    reply = await client.reply()
    if reply.status == 103:
        reply = await client.reply()
    assert (reply.status, reply.header("x-shoal-engine"), reply.header("x-shoal-attempts")) == (
        200,
        "n1/m",
        "2",
    )
    assert [fault.engine for fault in stage.faults] == ["n0/m"]
    await stage.until(lambda: stage.open_requests() == 0)


async def test_never_the_same_engine_twice_and_never_more_than_max_attempts(stage):
    engines = [await stage.engine(resetting()) for _ in range(5)]
    await stage.open(*engines, max_attempts=3)
    reply = await stage.request(stage.post())
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")
    assert sorted(len(engine.seen) for engine in engines) == [0, 0, 1, 1, 1]
    assert reply.error["message"].count("connection") == 3, "it says what happened at each engine"


async def test_when_all_engines_have_failed_the_client_hears_why(stage):
    dead = [await stage.dead_engine(), await stage.dead_engine()]
    await stage.open(*dead, table=None)
    client = await stage.client()
    reply = await client.request(stage.post())
    assert (reply.status, reply.error["code"], reply.header("retry-after")) == (
        503,
        "engine_unreachable",
        "5",
    )
    assert "n0/m: connection refused; n1/m: connection refused" in reply.error["message"]
    assert reply.error["type"] == "server_error"
    assert (await client.request(stage.get("/v1/models"))).status == 200, "the connection goes on"
    assert stage.open_requests() == 0


async def test_an_engine_that_cannot_be_connected_to_in_time_is_left(stage):
    live = await stage.engine()
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        while True:  # until its queue is full and the kernel drops what comes
            knock = sockets.enter_context(socket.socket())
            knock.settimeout(0.05)
            try:
                knock.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        hung = stage.target(live, 0, id="hung/m", port=port)
        route = ModelRoute(model="m", policy="round_robin", engines=(hung, stage.target(live, 1)))
        await stage.open(table=stage.table({"m": route}), connect_timeout=0.2)
        reply = await stage.request(stage.post())
    assert (reply.status, reply.header("x-shoal-attempts")) == (200, "2")
    assert [fault.reason for fault in stage.faults] == ["no connection within 0.2 s"]


async def test_a_name_that_cannot_be_resolved_is_a_failed_connection(stage):
    live = await stage.engine()
    nameless = stage.target(live, 0, id="nameless/m", host="no-such-host.invalid")
    route = ModelRoute(model="m", policy="round_robin", engines=(nameless, stage.target(live, 1)))
    await stage.open(table=stage.table({"m": route}), connect_timeout=5.0)
    assert (await stage.request(stage.post())).status == 200
    assert "cannot connect" in stage.faults[0].reason


async def test_a_dead_engine_costs_one_attempt_and_not_one_per_request(stage):
    dead, live = await stage.dead_engine(), await stage.engine()
    await stage.open(dead, live)
    attempts = [(await stage.request(stage.post())).header("x-shoal-attempts") for _ in range(20)]
    assert attempts.count("2") == 1
    assert len(live.seen) == 20


async def test_an_avoided_engine_is_used_when_there_is_no_other(stage):
    engine = await stage.dead_engine()
    await stage.open(engine)
    assert (await stage.request(stage.post())).status == 503
    await engine.start()
    assert (await stage.request(stage.post())).status == 200
    assert stage.gateway.faults.avoided == {}, "a success ends it"


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
async def test_answers_of_an_engine_are_not_judged(stage, status):
    body = b'{"error":{"message":"engine"}}'
    data = b"HTTP/1.1 %d X\r\nretry-after: 7\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
    engine, other = await stage.engine(data), await stage.engine(data)
    await stage.open(engine, other)
    reply = await stage.request(stage.post())
    assert (reply.status, reply.body, reply.header("retry-after")) == (status, body, "7")
    assert len(engine.seen) + len(other.seen) == 1
    assert stage.faults == []
    assert stage.metrics.totals().requests[(f"{status // 100}xx", False)] == 1


async def test_a_stale_connection_is_replaced_without_a_fault(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    assert (await client.request(stage.post())).status == 200
    first = engine.connections[0]

    async def close_on_second(connection, _):
        if connection is first:
            connection.writer.close()  # as if its idle time had run out just as the request was on its way
        else:
            await connection.send(stage.OK)

    engine.behave = close_on_second
    reply = await client.request(stage.post())
    assert (reply.status, reply.header("x-shoal-attempts")) == (200, None)
    assert stage.faults == []
    totals = stage.metrics.totals()
    assert (totals.stale_retries, totals.retries, totals.upstream_faults) == (1, 0, 0)


async def test_an_idle_connection_closed_by_the_engine_is_not_used(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    await client.request(stage.post())
    (pool,) = stage.gateway.routes["m"].pools
    engine.connections[0].writer.close()
    await stage.until(lambda: not pool._idle)
    assert (await client.request(stage.post())).status == 200
    assert stage.metrics.totals().stale_retries == 0


async def test_an_idle_connection_on_which_the_engine_speaks_is_closed(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    await client.request(stage.post())
    await engine.connections[0].send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    await stage.until(lambda: not stage.gateway.routes["m"].pools[0]._idle)
    assert (await client.request(stage.post())).status == 200


@pytest.mark.parametrize(
    "partial",
    [
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_response_never_looks_complete(stage, partial, how):
    engine = await stage.engine(stage.answer_then_close(partial) if how == "close" else resetting(partial))
    await stage.open(engine, await stage.engine())
    client = await stage.client()
    reply = await client.request(stage.post())
    assert reply.status == 200
    assert not reply.complete
    assert await client.at_end()
    assert (stage.metrics.totals().truncated, stage.metrics.totals().upstream_faults) == (1, 1)
    assert stage.open_requests() == 0
    assert [fault.engine for fault in stage.faults] == ["n0/m"]


async def test_a_cut_response_to_http10_resets_the_connection(stage):
    await stage.open(await stage.engine(stage.answer_then_close(CHUNKED + b"5\r\nhello\r\n")))
    client = await stage.client()
    await client.send(b"GET /v1/completions HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await client.reader.read()
        await client.reader.read()


async def test_bad_chunks_in_the_middle_end_the_connection(stage):
    first = asyncio.Event()

    async def behave(connection, _):
        await connection.send(CHUNKED + b"5\r\nhello\r\n")
        await first.wait()
        await connection.send(b"zz\r\nhello\r\n0\r\n\r\n")
        await connection.wait_closed()

    await stage.open(await stage.engine(behave))
    client = await stage.client()
    await client.send(stage.post())
    await client.reader.readuntil(b"hello\r\n")
    first.set()
    assert b"zz" not in await client.reader.read()
    assert stage.open_requests() == 0


@pytest.mark.parametrize(
    "extra",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\n",
        b"H",
        b"garbage",
        b"\r\nHTTP/1.1 ",
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked", "none"])
async def test_bytes_behind_a_response_never_become_another_answer(stage, extra, framing):
    head = {
        "length": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "chunked": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        "none": b"HTTP/1.1 204 No Content\r\n\r\n",
    }[framing]
    engine = await stage.engine(head + extra)
    await stage.open(engine)
    client = await stage.client()
    reply = await client.request(stage.post())
    assert reply.status == {"length": 200, "none": 204, "chunked": 502}[framing]
    engine.behave = stage.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood")
    assert (await client.request(stage.post())).body == b"good"
    assert len(engine.connections) == 2


async def test_bytes_behind_the_last_chunk_of_a_stream_cut_it(stage):
    first = asyncio.Event()

    async def behave(connection, _):
        await connection.send(CHUNKED + b"5\r\nhello\r\n")
        await first.wait()
        await connection.send(b"0\r\n\r\n" + stage.OK)

    await stage.open(await stage.engine(behave))
    client = await stage.client()
    await client.send(stage.post())
    await client.reader.readuntil(b"hello\r\n")
    first.set()
    assert await client.reader.read() == b""


async def test_a_body_that_ends_with_the_connection_becomes_chunks(stage):
    await stage.open(
        await stage.engine(stage.answer_then_close(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nhello world"))
    )
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(stage.post())
        assert (reply.body, reply.header("transfer-encoding"), reply.complete) == (
            b"hello world",
            "chunked",
            True,
        )
    assert (await stage.request(b"GET /v1/completions HTTP/1.0\r\n\r\n")).body == b"hello world"
    assert stage.faults == []


async def test_a_reset_of_a_body_that_ends_with_the_connection_is_a_cut(stage):
    await stage.open(await stage.engine(resetting(b"HTTP/1.1 200 OK\r\n\r\nhello")))
    assert not (await stage.request(stage.post())).complete


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(stage, status):
    await stage.open(await stage.engine(b"HTTP/1.1 %d X\r\netag: x\r\n\r\n" % status))
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(stage.post())
        assert (reply.status, reply.header("etag"), reply.body) == (status, "x", b"")


async def test_interim_responses_pass_but_100_does_not(stage):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    await stage.open(await stage.engine(interim + stage.OK))
    client = await stage.client()
    await client.send(stage.post())
    assert [(await client.reply()).status for _ in range(2)] == [103, 200]
    assert (await stage.request(b"GET /v1/completions HTTP/1.0\r\n\r\n")).status == 200


async def test_an_http10_engine_is_spoken_to_as_well(stage):
    data = b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello"
    engine = await stage.engine(data)
    await stage.open(engine)
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(stage.post())
        assert (reply.body, reply.header("connection")) == (b"hello", None)
    assert len(engine.connections) == 2


async def test_an_engine_that_closes_its_connection_does_not_close_the_clients(stage):
    engine = await stage.engine(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Y\r\nX-Y: 1\r\ncontent-length: 0\r\n\r\n"
    )
    await stage.open(engine)
    client = await stage.client()
    for _ in range(3):
        reply = await client.request(stage.post())
        assert (reply.header("connection"), reply.header("x-y"), reply.header("content-length")) == (
            None,
            None,
            "0",
        )
    assert len(engine.connections) == 3


async def test_an_answer_before_the_request_is_complete_is_passed_on(stage):
    async def early(connection, _):
        await connection.send(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        connection.writer.close()

    engine = await stage.engine(early)
    await stage.open(engine)
    assert (await stage.request(stage.post())).status == 413


async def silent(connection, _):
    await connection.wait_closed()


async def test_a_silent_engine_that_is_no_longer_routed_to_loses_its_request_to_another(stage):
    lost, other = await stage.engine(silent), await stage.engine(stage.OK)
    await stage.open(lost, response_timeout=0.2)
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: lost.seen)
    stage.gateway.apply(stage.table({"m": stage.route(other)}))
    reply = await client.reply("POST")
    assert (reply.status, reply.header("x-shoal-attempts")) == (200, "2")
    await stage.until(lambda: lost.connections[0].closed)
    assert stage.open_requests() == 0


async def test_a_late_failure_to_connect_is_not_held_against_the_next_engine(stage):
    """The attempt was given up for its silence while its connection was still being made."""
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    lost, other = await stage.engine(), await stage.engine(wait)
    await stage.open(lost, response_timeout=0.1)
    pool = stage.gateway.routes["m"].pools[0]
    abandoned = []
    pool.connect = abandoned.append  # connects for ever
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: abandoned)
    stage.gateway.apply(stage.table({"m": stage.route(other)}))
    await stage.until(lambda: other.seen)
    abandoned[0].on_unreachable(pool, "too late")
    release.set()
    reply = await client.reply("POST")
    assert (reply.status, reply.header("x-shoal-engine")) == (200, "n1/m")
    assert stage.open_requests() == 0


async def test_silence_alone_is_no_fault(stage):
    release = asyncio.Event()

    async def prefill(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(prefill)
    await stage.open(engine, response_timeout=0.05)
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    began = asyncio.get_running_loop().time()
    await stage.until(lambda: asyncio.get_running_loop().time() - began > 0.3)
    release.set()
    assert (await client.reply("POST")).status == 200


async def test_a_stream_from_a_silent_engine_that_is_no_longer_routed_to_is_cut(stage):
    async def stall(connection, _):
        await connection.send(CHUNKED + b"5\r\nhello\r\n")
        await connection.wait_closed()

    engine = await stage.engine(stall)
    await stage.open(engine, response_timeout=0.2)
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    stage.gateway.apply(stage.table({}))
    reply = await client.reply("POST")
    assert (reply.body, reply.complete) == (b"hello", False)
    assert stage.open_requests() == 0


async def test_a_request_is_counted_at_dispatch_and_released_at_the_end(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    await stage.open(engine)
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    assert stage.in_flight.load(0) == 1
    assert stage.metrics.totals().open_requests == 1
    release.set()
    await client.reply()
    assert stage.in_flight.load(0) == 0
    assert stage.metrics.totals().open_requests == 0


async def test_requests_are_counted_by_status_and_streaming(stage):
    await stage.open(await stage.engine())
    await stage.request(stage.post())
    await stage.request(stage.post(b'{"model":"m","stream":true}'))
    await stage.request(stage.post(b'{"model":"x","stream":true}'))
    await stage.request(stage.get("/health"))
    await stage.request(b"GARBAGE\r\n\r\n")
    totals = stage.metrics.totals()
    assert totals.requests == {
        **{(f"{status}xx", streamed): 0 for status in (2, 3, 4, 5) for streamed in (False, True)},
        ("2xx", False): 2,
        ("2xx", True): 1,
        ("4xx", True): 1,
        ("4xx", False): 1,
    }
    assert totals.bad_requests == 1
    assert totals.bytes_in == len(b'{"model":"m"}') + len(b'{"model":"m","stream":true}')
    assert totals.bytes_out > 2 * len(stage.OK)


async def test_least_connections_spreads_simultaneous_requests(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engines = [await stage.engine(wait) for _ in range(4)]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="least_connections")}))
    clients = [await stage.client() for _ in range(40)]
    for client in clients:
        await client.send(stage.post())
    await stage.until(lambda: sum(len(engine.seen) for engine in engines) == 40)
    assert [len(engine.seen) for engine in engines] == [10] * 4
    release.set()
    for client in clients:
        assert (await client.reply()).status == 200


async def test_a_retry_goes_to_an_engine_of_the_table_now_in_force(stage):
    gone = await stage.engine()
    fresh = await stage.engine()

    async def fail_after_change(connection, _):
        stage.gateway.apply(stage.table({"m": stage.route(fresh)}))
        connection.reset()

    gone.behave = fail_after_change
    await stage.open(gone)
    reply = await stage.request(stage.post())
    assert (reply.status, reply.header("x-shoal-engine")) == (200, "n1/m")


async def test_requests_under_way_survive_the_removal_of_their_engine(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    await stage.open(engine)
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    stage.gateway.apply(stage.table({}))
    release.set()
    assert (await client.reply()).status == 200
    await stage.until(lambda: engine.connections[0].closed)
    assert stage.open_requests() == 0


async def test_control_paths_go_to_the_control_socket(stage):
    control = await stage.engine(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstatus")
    await control.stop()
    await control.start(unix=stage.control)
    await stage.open()
    client = await stage.client()
    for path in (
        "/",
        "/metrics",
        "/shoal/v1/status?x=1",
        "/v1/files",
        "/v1/files/f-1/content",
        "/v1/batches/b-1",
    ):
        reply = await client.request(stage.get(path))
        assert (reply.status, reply.body, reply.header("x-shoal-engine")) == (200, b"status", None)
        assert control.seen[-1].line == b"GET %b HTTP/1.1" % path.encode()
    assert stage.open_requests() == 0


async def test_an_absent_control_app_is_502(stage):
    await stage.open()
    client = await stage.client()
    for _ in range(2):
        reply = await client.request(stage.get("/shoal/v1/status"))
        assert (reply.status, reply.error["code"]) == (502, "control_away")
    assert stage.faults == []


async def test_a_storm_of_failures_leaves_no_count_behind(stage):
    """Everything that can go wrong at once, at random times; afterwards nothing is open and all still works."""
    chance = random.Random(7)

    async def moody(connection, seen):
        mood = chance.random()
        await asyncio.sleep(chance.random() * 0.01)
        if mood < 0.15:
            connection.reset()
        elif mood < 0.25:
            connection.writer.close()
        elif mood < 0.35:
            await connection.send(CHUNKED + b"5\r\nhello\r\n")
            await asyncio.sleep(chance.random() * 0.01)
            connection.reset()
        elif mood < 0.45:
            await connection.send(b"rubbish\r\n\r\n")
        elif mood < 0.55:
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil close")
            connection.writer.close()
        elif mood < 0.7:
            await connection.send(CHUNKED)
            for _ in range(5):
                await connection.send(b"5\r\nhello\r\n")
                await asyncio.sleep(0.001)
            await connection.send(b"0\r\n\r\n")
        else:
            await connection.send(stage.OK)

    engines = [await stage.engine(moody) for _ in range(3)]
    dead = await stage.dead_engine()
    await stage.open(
        table=stage.table({"m": stage.route(*engines, dead, policy="least_connections")}), connect_timeout=0.5
    )

    async def visitor() -> None:
        for _ in range(15):
            client = await stage.client()
            await client.send(stage.post() * chance.choice((1, 1, 3)))
            fate = chance.random()
            if fate < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
                client.reset()
            elif fate < 0.5:
                client.close()
            else:
                try:
                    while (await client.reply()).complete and chance.random() < 0.3:
                        await client.send(stage.post())
                except (asyncio.IncompleteReadError, ConnectionError):
                    pass
                client.close()

    async def shaker() -> None:
        for _ in range(20):
            await asyncio.sleep(0.01)
            route = stage.route(*chance.sample(engines, 2), dead, policy="least_connections")
            stage.gateway.apply(stage.table({"m": route}))

    await asyncio.gather(*(visitor() for _ in range(20)), shaker())
    await stage.until(lambda: not stage.gateway.connections)
    assert stage.in_flight.row(0).tolist() == [0] * 1024
    assert stage.metrics.totals().open_connections == 0
    for engine in engines:
        engine.behave = stage.answer(stage.OK)
    stage.gateway.apply(stage.table({"m": stage.route(*engines)}))
    client = await stage.client()
    for _ in range(10):
        assert (await client.request(stage.post())).status == 200


def test_the_dechunker_takes_bytes_in_any_pieces():
    data = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nt: 1\r\n\r\n"
    for cut in range(len(data)):
        dechunker = Dechunker()
        assert dechunker.feed(data[:cut]) + dechunker.feed(data[cut:]) == b"hello world"
