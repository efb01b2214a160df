"""Mutual TLS to engines: requests, streams, sessions, engines that shake no hands."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from pathlib import Path

import pytest

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.gateway import engine_tls
from shoal.gateway.messages import Credentials

AUTHORITY = Authority("shoal", "0123456789abcdef")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def credentials(directory: Path, authority: Authority = AUTHORITY) -> Credentials:
    folder = directory / authority.fingerprint
    folder.mkdir(exist_ok=True)
    pair = authority.issue("a:1")
    for name, content in (("ca", authority.certificate), ("pem", pair.certificate), ("key", pair.key)):
        (folder / name).write_bytes(content)
    return Credentials(
        ca=str(folder / "ca"),
        certificate=str(folder / "pem"),
        key=str(folder / "key"),
        server_name=SERVER_NAME,
    )


class SecureEngine:
    """An engine that demands the cluster's certificate."""

    def __init__(self, stage, files: Credentials, answer: bytes | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(files.certificate, files.key)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(files.ca)
        self.answer = answer or stage.OK
        self.resumed: list[bool] = []
        self.requests = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self, sock: socket.socket | None = None) -> int:
        sock = sock or socket.create_server(("127.0.0.1", 0))
        self.server = await asyncio.start_server(self._serve, sock=sock, ssl=self.context)
        return int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.resumed.append(writer.get_extra_info("ssl_object").session_reused)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(13)
                self.requests += 1
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def close(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()


async def open_to(stage, port: int, known: dict[str, Credentials], **settings: object) -> None:
    plain = await stage.engine()
    route = stage.route(plain, port=port, authority=AUTHORITY.fingerprint)
    await stage.open(table=stage.table({"m": route}), authorities=known, **settings)


async def test_requests_go_over_one_connection_kept(stage, tmp_path):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    for _ in range(3):
        assert (await stage.request(stage.post())).status == 200
    assert (engine.requests, len(engine.resumed)) == (3, 1)
    engine.close()


async def test_a_long_stream_and_a_large_body_pass(stage, tmp_path):
    files = credentials(tmp_path)
    events = b"".join(b"data: %d\n\n" % n for n in range(20_000)) + b"data: [DONE]\n\n"
    body = (
        b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (events[:100_000], events[100_000:])) + b"0\r\n\r\n"
    )
    engine = SecureEngine(stage, files, HEAD + body)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        received.append(await reader.readexactly(300_012))
        writer.write(engine.answer)

    received = []
    engine._serve = serve
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    reply = await stage.request(stage.post(b'{"model":"m"' + b" " * 299_999 + b"}"))
    assert (reply.status, reply.body == events, len(received)) == (200, True, 1)
    engine.close()


ASK = b'{"model":"m","stream":true}'


def event(number: int, size: int = 0) -> bytes:
    data = b"data: %d %b\n\n" % (number, b"x" * size)
    return b"%x\r\n%b\r\n" % (len(data), data)


def numbers(body: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"data: (\d+)", body)]


async def test_events_pass_as_they_come_and_the_connection_is_used_again(stage, tmp_path, reading):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    heard = asyncio.Event()
    together: list[bool] = []

    async def speak(reader, writer):
        engine.writers.append(writer)
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(ASK))
            writer.write(HEAD)
            for number in range(20):
                writer.write(event(number))
                await heard.wait()
                heard.clear()
                together.append(stage.gateway.reads.active)
            writer.write(event(20, 50_000) + b"0\r\n\r\n")

    engine._serve = speak
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    for _ in range(3):
        client = await stage.client()
        await client.send(stage.post(ASK))
        for number in range(20):
            await client.reader.readuntil(b"data: %d " % number)
            await client.reader.readuntil(b"\n\r\n")
            heard.set()
        body, _, complete = await client._chunks()
        assert (numbers(body), complete) == ([20], True)
    assert len(engine.writers) == 1
    assert set(together) == {reading == "together"}
    engine.close()


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_stream_that_breaks_off_is_noticed(stage, tmp_path, way):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    heard = asyncio.Event()

    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + event(0))
        await heard.wait()
        writer.write(event(1))
        getattr(writer.transport, way)()

    engine._serve = speak
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    client = await stage.client()
    await client.send(stage.post(ASK))
    await client.reader.readuntil(b"data: 0 \n\n\r\n")
    heard.set()
    body, _, _ = await client._chunks()
    assert way == "abort" or numbers(body) == [1]
    assert b"server_error" in body
    engine.close()


@pytest.mark.usefixtures("reading")
async def test_an_engine_waits_for_a_client_that_does_not_read_events(stage, tmp_path):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    sent = 0

    async def speak(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for number in range(10_000):
            writer.write(event(number, 3000))
            await writer.drain()
            await asyncio.sleep(0)
            sent = number
        writer.write(b"0\r\n\r\n")

    engine._serve = speak
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    client = await stage.client()
    client.writer.transport.pause_reading()
    await client.send(stage.post(ASK))
    await stage.until(lambda: sent > 100)
    await stage.until_still(lambda: sent)
    assert sent < 9_000
    client.writer.transport.resume_reading()
    reply = await client.reply()
    assert (numbers(reply.body), reply.complete) == ([*range(10_000)], True)
    engine.close()


async def test_new_connections_take_up_the_session_of_an_earlier_one(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_tls, "_TICKET_AFTER", 0.05)
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files}, keepalive=0)
    (pool,) = stage.gateway.routes["m"].pools
    assert (await stage.request(stage.post())).status == 200
    await stage.until(lambda: pool._engine_tls._context.session is not None)
    for _ in range(3):
        assert (await stage.request(stage.post())).status == 200
    assert engine.resumed == [False, True, True, True]
    engine.close()


async def test_an_engine_of_another_secret_is_not_trusted(stage, tmp_path):
    other = credentials(tmp_path, Authority("shoal", "another one of 16"))
    engine = SecureEngine(stage, other)
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: credentials(tmp_path)})
    reply = await stage.request(stage.post())
    assert (reply.status, reply.error["code"]) == (503, "engine_unreachable")
    assert "certificate verify failed" in reply.error["message"]
    assert engine.requests == 0
    engine.close()


async def test_an_engine_of_an_unknown_authority_is_not_even_asked(stage, tmp_path):
    engine = SecureEngine(stage, credentials(tmp_path))
    await open_to(stage, await engine.start(), {})
    reply = await stage.request(stage.post())
    assert (reply.status, reply.error["code"]) == (503, "engine_unreachable")
    assert "another cluster secret" in reply.error["message"]
    assert engine.resumed == []
    engine.close()


async def test_certificates_that_cannot_be_read_are_told_and_break_nothing_else(stage, tmp_path):
    files = credentials(tmp_path)
    await asyncio.to_thread(Path(files.key).unlink)
    plain = await stage.engine()
    routes = {
        "m": stage.route(plain, authority=AUTHORITY.fingerprint),
        "n": stage.route(plain, model="n", id="x/n", slot=5),
    }
    await stage.open(table=stage.table(routes), authorities={AUTHORITY.fingerprint: files})
    reply = await stage.request(stage.post())
    assert reply.status == 503
    assert "the node's certificate cannot be used" in reply.error["message"]
    assert (await stage.request(stage.post(b'{"model":"n"}'))).status == 200


async def test_an_engine_that_is_slow_to_shake_hands_is_waited_for(stage, tmp_path):
    """A busy event loop is no dead machine: the time-out for connections is about the network."""
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    sock = socket.create_server(("127.0.0.1", 0))  # the kernel takes connections from here on
    known = {AUTHORITY.fingerprint: files}
    await open_to(stage, sock.getsockname()[1], known, connect_timeout=0.05)
    client = await stage.client()
    await client.send(stage.post())
    opened = asyncio.get_running_loop().time()
    await stage.until(lambda: asyncio.get_running_loop().time() > opened + 0.3)
    await engine.start(sock)
    assert (await client.reply()).status == 200
    engine.close()


async def test_a_request_leaves_an_engine_that_hangs_in_the_handshake_when_the_node_knows(stage, tmp_path):
    files = credentials(tmp_path)
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    healthy = await stage.engine()
    hung = stage.target(healthy, 0, port=silent.sockets[0].getsockname()[1], authority=AUTHORITY.fingerprint)
    other = stage.target(healthy, 1)
    table = stage.table({"m": stage.route(healthy)})
    route = type(table.routes["m"])(model="m", policy="round_robin", engines=(hung, other))
    await stage.open(table=stage.table({"m": route}), authorities={AUTHORITY.fingerprint: files})
    client = await stage.client()
    pick = 0
    while not pick:  # until one goes to the engine that hangs
        await client.send(stage.post())
        try:
            async with asyncio.timeout(0.2):
                await client.reply()
        except TimeoutError:
            pick = 1
    stage.gateway.apply(stage.table({"m": route}, lost=(hung.id,)))
    reply = await client.reply()
    assert (reply.status, reply.header("x-shoal-engine")) == (200, other.id)
    silent.close()


async def test_an_engine_waits_for_a_client_that_does_not_read(stage, tmp_path):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    total, sent = 64 << 20, 0
    piece = b"x" * 65_536

    async def flood(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    engine._serve = flood
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    client = await stage.client()
    client.writer.transport.pause_reading()
    await client.send(stage.post())
    await stage.until(lambda: sent > 1 << 20)
    await stage.until_still(lambda: sent)
    assert sent < total / 2
    client.writer.transport.resume_reading()
    assert len((await client.reply()).body) == total
    engine.close()


async def test_a_websocket_passes(stage, tmp_path):
    files = credentials(tmp_path)
    engine = SecureEngine(stage, files)
    ended = asyncio.Event()

    async def echo(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello"
        )
        while data := await reader.read(65536):
            writer.write(data)
        ended.set()

    engine._serve = echo
    await open_to(stage, await engine.start(), {AUTHORITY.fingerprint: files})
    client = await stage.client()
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    await client.send(stage.get("/v1/realtime?model=m", f"{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBs\r\n"))
    assert (await client.reply()).status == 101
    assert await client.reader.readexactly(5) == b"hello"
    data = bytes(range(256)) * 1000
    await client.send(data)
    assert await client.reader.readexactly(len(data)) == data
    client.close()
    await ended.wait()
    await stage.until(lambda: stage.open_requests() == 0)
    engine.close()
