"""Keep-alive connections to an engine."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess

import pytest


def idle(stage, model: str = "m") -> list[object]:
    return [connection for pool in stage.gateway.routes[model].pools for connection in pool._idle]


async def test_connections_are_used_again_the_latest_first(stage):
    engine = await stage.engine()
    await stage.open(engine)
    clients = [await stage.client() for _ in range(5)]
    for client in clients:
        await client.send(stage.post())
    for client in clients:
        assert (await client.reply()).status == 200
    used = len(engine.connections)
    for _ in range(10):
        await clients[0].request(stage.post())
    assert len(engine.connections) == used
    assert sum(connection.requests > 2 for connection in engine.connections) == 1


async def test_no_more_than_keepalive_idle_connections_are_kept(stage):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    await stage.open(engine, keepalive=3)
    clients = [await stage.client() for _ in range(10)]
    for client in clients:
        await client.send(stage.post())
    await stage.until(lambda: len(engine.seen) == 10)
    release.set()
    for client in clients:
        await client.reply()
    assert len(idle(stage)) == 3
    await stage.until(lambda: sum(connection.closed for connection in engine.connections) == 7)


async def test_an_engine_that_leaves_the_table_keeps_no_idle_connections(stage):
    engine = await stage.engine()
    await stage.open(engine)
    await stage.request(stage.post())
    stage.gateway.apply(stage.table({}))
    await stage.until(lambda: engine.connections[0].closed)


async def test_connections_survive_a_table_that_changes_something_else(stage):
    engine, other = await stage.engine(), await stage.engine()
    await stage.open(engine)
    await stage.request(stage.post())
    stage.gateway.apply(stage.table({"m": stage.route(engine, other, weight=2.5)}))
    for _ in range(4):
        await stage.request(stage.post())
    assert len(engine.connections) == 1
    assert stage.gateway.routes["m"].pools[0].target.weight == 2.5


async def test_an_engine_with_a_new_address_gets_new_connections(stage):
    engine, moved = await stage.engine(), await stage.engine()
    await stage.open(engine)
    await stage.request(stage.post())
    stage.gateway.apply(stage.table({"m": stage.route(engine, port=moved.port)}))
    await stage.request(stage.post())
    assert (len(engine.seen), len(moved.seen)) == (1, 1)
    await stage.until(lambda: engine.connections[0].closed)


async def test_a_connection_made_for_a_client_that_left_is_kept_for_others(stage):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    connection = next(iter(stage.gateway.connections)) if stage.gateway.connections else None
    await stage.until(lambda: stage.gateway.connections)
    (connection,) = stage.gateway.connections
    connection.data_received(stage.post())
    connection.abort()
    client.close()
    await stage.until(lambda: len(idle(stage)) == 1)
    assert stage.open_requests() == 0
    assert (await stage.request(stage.post())).status == 200
    assert len(engine.connections) == 1


@pytest.fixture
def certificate(tmp_path):
    """A key and a self-signed certificate for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                openssl,
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_external_engines_are_reached_over_tls(stage, certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    seen = []

    async def serve(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(13)
        writer.write(stage.OK)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    plain = await stage.engine()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    await stage.open(table=stage.table({"m": stage.route(plain, host="localhost", port=port, tls=True)}))
    assert (await stage.request(stage.post())).status == 200
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    monkeypatch.delenv("SSL_CERT_FILE")
    stage.gateway.apply(stage.table({"m": stage.route(plain, host="localhost", port=port, tls=True, slot=9)}))
    reply = await stage.request(stage.post())
    assert (reply.status, reply.error["code"]) == (503, "engine_unreachable")
    assert "certificate" in reply.error["message"].lower()
    server.close()
