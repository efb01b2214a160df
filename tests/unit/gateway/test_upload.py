"""Files on their way to the control app: passed on as they come, whatever their size."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from shoal.gateway.keys import KeyTable
from shoal.gateway.pool import Pool
from support.keys import bearer, key

SIZE = 48 << 20
PIECE = b"x" * (1 << 20)


async def control(stage, behave=None):
    app = await stage.engine(behave or stage.OK)
    await app.stop()
    await app.start(unix=stage.control)
    return app


def head(size: int, extra: str = "") -> bytes:
    return f"POST /v1/files HTTP/1.1\r\nHost: g\r\n{extra}Content-Length: {size}\r\n\r\n".encode()


class Sink:
    """A control app that counts what comes, answers when all is there, or at once, in so many pieces."""

    def __init__(self, *, gate: asyncio.Event | None = None, pieces: int = 1) -> None:
        self.received = 0
        self.pieces = pieces
        self.heads: list[bytes] = []
        self.gate = gate

    async def start(self, path: str, early: bytes = b"") -> None:
        self.early = early
        self.server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader, writer) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(request)
        if self.early:
            length = -(-len(self.early) // self.pieces)
            for start in range(0, len(self.early), length):
                if start:
                    await asyncio.sleep(0.02)
                writer.write(self.early[start : start + length])
            writer.close()
            return
        if self.gate is not None:
            await self.gate.wait()
        length = int(request.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while self.received < length:
            self.received += len(await reader.read(1 << 20))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()


async def test_a_file_larger_than_any_body_goes_through_without_being_held(stage):
    sink = Sink()
    await sink.start(stage.control)
    await stage.open(max_body=1 << 20)
    client = await stage.client()
    before = psutil.Process().memory_info().rss
    await client.send(head(SIZE))
    for _ in range(SIZE // len(PIECE)):
        await client.send(PIECE)
    reply = await client.reply()
    assert (reply.status, reply.header("connection")) == (200, "close")
    assert sink.received == SIZE
    assert psutil.Process().memory_info().rss - before < SIZE // 2


async def waits_for_one_that_does_not_read(stage) -> None:
    """See that a client cannot send on while the control app does not read, and is answered when it does."""
    gate = asyncio.Event()
    sink = Sink(gate=gate)
    await sink.start(stage.control)
    await stage.open()
    client = await stage.client()
    await client.send(head(SIZE))

    async def send() -> None:
        for _ in range(SIZE // len(PIECE)):
            await client.send(PIECE)

    sending = asyncio.create_task(send())
    await stage.until(lambda: sink.heads)
    await stage.until_still(client.writer.transport.get_write_buffer_size)
    assert not sending.done()
    gate.set()
    await sending
    assert (await client.reply()).status == 200


async def test_a_control_app_that_does_not_read_makes_the_client_wait(stage):
    await waits_for_one_that_does_not_read(stage)


async def test_what_came_before_the_control_app_was_connected_makes_the_client_wait_too(stage, monkeypatch):
    """The first write fills the connection already: it must not be taken for one that has room."""
    connect_for, much = Pool._connect_for, 1 << 20
    monkeypatch.setattr("shoal.gateway.client.HELD", much)

    async def late(pool, exchange) -> None:
        await stage.until(lambda: len(exchange.request.upload.held) > much)
        await connect_for(pool, exchange)

    monkeypatch.setattr(Pool, "_connect_for", late)
    await waits_for_one_that_does_not_read(stage)


async def test_a_file_above_the_limit_is_refused_before_it_comes(stage):
    await control(stage)
    await stage.open(max_upload=1000)
    reply = await stage.request(head(1001))
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


async def test_only_files_may_be_larger_than_a_body(stage):
    await stage.open(await stage.engine(), max_body=1000)
    assert (await stage.request(head(1001).replace(b"/v1/files", b"/v1/batches"))).status == 413


@pytest.mark.parametrize("pieces", [1, 2])
async def test_an_early_answer_reaches_a_client_that_still_sends(stage, pieces):
    body = b'{"error":{"message":"%b"}}' % (b"x" * 400)
    sink = Sink(pieces=pieces)
    early = b"HTTP/1.1 507 Insufficient Storage\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    await sink.start(stage.control, early % (len(body), body))
    await stage.open()
    client = await stage.client()
    await client.send(head(SIZE))

    async def send() -> None:
        try:
            for _ in range(SIZE // len(PIECE)):
                await client.send(PIECE)
        except ConnectionError:
            pass

    sending = asyncio.create_task(send())
    reply = await client.reply()
    assert (reply.status, reply.body) == (507, body)
    sending.cancel()


async def test_nothing_behind_a_file_goes_on(stage):
    app = await control(stage)
    await stage.open()
    client = await stage.client()
    await client.send(head(4) + b"abcdGET /shoal/v1/status HTTP/1.1\r\nHost: g\r\n\r\n")
    assert (await client.reply()).status == 200
    assert await client.at_end()
    assert [seen.body for seen in app.seen] == [b"abcd"]


async def test_a_file_behind_another_request_waits_for_its_turn(stage):
    app = await control(stage)
    await stage.open(await stage.engine())
    client = await stage.client()
    await client.send(stage.post() + head(6) + b"abc")
    await client.send(b"def")
    assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert [seen.body for seen in app.seen] == [b"abcdef"]


async def test_a_client_that_asks_first_is_told_to_go_on(stage):
    await control(stage)
    await stage.open()
    client = await stage.client()
    assert (await client.request(head(4, "Expect: 100-continue\r\n"))).status == 100
    await client.send(b"abcd")
    assert (await client.reply()).status == 200


async def test_who_has_no_key_is_refused_before_the_file_comes(stage):
    app = await control(stage)
    await stage.open(await stage.engine(), keys=KeyTable(keys=(key("anna"),)))
    assert (await stage.request(head(1 << 30, "Expect: 100-continue\r\n"))).status == 401
    assert app.seen == []


async def test_a_file_that_stops_coming_is_given_up(stage):
    await control(stage)
    await stage.open(response_timeout=1.0)
    client = await stage.client()
    await client.send(head(100) + b"abc")
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")


@pytest.mark.parametrize("admin", [False, True])
async def test_the_control_app_learns_whose_key_it_is_and_nobody_can_pretend(stage, admin):
    app = await control(stage)
    await stage.open(await stage.engine(), keys=KeyTable(keys=(key("anna", admin=admin),)))
    lies = "X-Shoal-Key: root\r\nx-shoal-key-role: admin\r\n"
    assert (await stage.request(stage.get("/v1/batches", bearer("anna") + lies))).status == 200
    assert app.seen[0].header(b"x-shoal-key") == b"anna"
    assert app.seen[0].header(b"x-shoal-key-role") == (b"admin" if admin else b"user")


async def test_without_keys_nobody_is_anybody(stage):
    app = await control(stage)
    await stage.open(await stage.engine())
    assert (await stage.request(stage.get("/v1/batches", "X-Shoal-Key: root\r\n"))).status == 200
    assert app.seen[0].header(b"x-shoal-key") is None


async def test_the_node_itself_works_for_a_key_and_within_its_rules(stage):
    one = await stage.engine()
    agent, anna = key("(node)", 1), key("anna", models=frozenset({"other"}))
    await stage.open(one, keys=KeyTable(keys=(anna,), agent=agent))
    client = await stage.client()
    secret = bearer("(node)").strip()
    assert (await client.request(stage.post(extra=f"{secret}\r\n"))).status == 200
    assert (await client.request(stage.post(extra=f"{secret}.anna\r\n"))).status == 403
    assert (await client.request(stage.post(extra=f"{secret}.nobody\r\n"))).status == 401
    assert (await client.request(stage.post(extra=f"{secret}.\r\n"))).status == 401
