"""TLS towards clients, in a real worker process: served, its certificate replaced, plain HTTP refused."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from pathlib import Path

import httpx

from shoal.gateway.messages import WorkerFailed, WorkerNotice, WorkerReady
from shoal.gateway.tls import ServerTls


def make_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new self-signed certificate for localhost, and of its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def replace(old: tuple[Path, Path], new: tuple[Path, Path]) -> None:
    for there, here in zip(old, new, strict=True):
        here.replace(there)


async def shown(worker) -> bytes:
    """Return the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", worker.port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return found


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


async def test_requests_over_tls_are_answered_and_streams_pass(stage, worker, tmp_path):
    certificate, key = make_pair(tmp_path, "first")
    events = b"".join(b"data: %d\n\n" % n for n in range(100)) + b"data: [DONE]\n\n"

    async def behave(connection, seen):
        if b"stream" not in seen.body:
            await connection.send(stage.OK)
            return
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + events)
        connection.writer.close()

    engine = await stage.engine(behave)
    await worker.start(engine, certificate=str(certificate), key=str(key))
    assert worker.messages[0] == WorkerReady(worker.process.pid)
    trust = ssl.create_default_context(cafile=str(certificate))
    async with httpx.AsyncClient(
        verify=trust, base_url=f"https://localhost:{worker.port}", trust_env=False
    ) as http:
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 200_000}]}
        for _ in range(3):
            assert (await http.post("/v1/chat/completions", json=body)).json() == {}
        assert (await http.post("/v1/chat/completions", json=body | {"stream": True})).content == events
        assert (await http.get("/nowhere")).status_code == 404
        assert (await http.post("/v1/chat/completions", content=b"{")).status_code == 400
    assert len(engine.seen[0].body) > 200_000


async def test_a_new_certificate_is_shown_to_new_connections(stage, worker, tmp_path):
    pair, new = make_pair(tmp_path, "first"), make_pair(tmp_path, "second")
    first, second = der(pair[0]), der(new[0])
    engine = await stage.engine()
    await worker.start(engine, certificate=str(pair[0]), key=str(pair[1]), header_timeout=1.0)
    context = ssl.create_default_context(cafile=str(pair[0]))
    reader, writer = await asyncio.open_connection("localhost", worker.port, ssl=context)
    assert await shown(worker) == first
    replace(pair, new)
    await stage.until(worker.notices)
    assert "is in use" in worker.notices()[0]
    assert await shown(worker) == second
    writer.write(stage.post())
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200"), "open connections go on"
    writer.transport.abort()


async def test_new_files_that_are_broken_leave_the_former_certificate_and_are_reported_once(
    stage, worker, tmp_path
):
    pair, new = make_pair(tmp_path, "first"), make_pair(tmp_path, "second")
    first, second = der(pair[0]), der(new[0])
    engine = await stage.engine()
    await worker.start(engine, certificate=str(pair[0]), key=str(pair[1]), header_timeout=0.2)
    new[0].replace(pair[0])  # the key does not follow
    await stage.until(worker.notices)
    assert "cannot be used" in worker.notices()[0]
    assert await shown(worker) == first
    new[1].replace(pair[1])
    await stage.until(lambda: len(worker.notices()) == 2)
    assert await shown(worker) == second


async def test_plain_http_on_the_tls_port_is_closed_and_nothing_else_is_affected(stage, worker, tmp_path):
    certificate, key = make_pair(tmp_path, "first")
    await worker.start(await stage.engine(), certificate=str(certificate), key=str(key))
    for data in (stage.post(), b"\x16\x03\x01\x00\x05hello", b"\0" * 500, b"GET /"):
        client = await stage.client()
        await client.send(data)
        if data == b"GET /":
            client.writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in await asyncio.wait_for(client.reader.read(), 5)
    assert await shown(worker) == der(certificate)
    assert worker.messages == [WorkerReady(worker.process.pid)]


async def test_a_handshake_that_does_not_come_is_cut_off(stage, worker, tmp_path):
    certificate, key = make_pair(tmp_path, "first")
    await worker.start(await stage.engine(), certificate=str(certificate), key=str(key), header_timeout=0.3)
    client = await stage.client()
    assert await asyncio.wait_for(client.at_end(), 5)


async def test_a_worker_without_a_usable_certificate_says_so(stage, worker, tmp_path):
    certificate, _ = make_pair(tmp_path, "first")
    _, key = make_pair(tmp_path, "second")
    await worker.start(await stage.engine(), certificate=str(certificate), key=str(key))
    (message,) = worker.messages
    assert isinstance(message, WorkerFailed)
    assert "mismatch" in message.reason.lower()


def test_a_change_seen_half_way_is_not_reported(tmp_path):
    pair, new = make_pair(tmp_path, "first"), make_pair(tmp_path, "second")
    told: list[WorkerNotice] = []
    tls = ServerTls(str(pair[0]), str(pair[1]), told.append)
    new[0].replace(pair[0])
    tls.refresh()
    new[1].replace(pair[1])
    tls.refresh()
    tls.refresh()
    assert [notice.level for notice in told] == ["info"]
