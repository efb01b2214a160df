"""Requests that are open, as people see them."""

from __future__ import annotations

import asyncio

from shoal.gateway.open_requests import open_requests


async def test_requests_to_engines_are_told_while_they_are_open(stage):
    go_on = asyncio.Event()

    async def slow(connection, _) -> None:
        await go_on.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    one = await stage.engine(slow)
    await stage.open(one)
    clients = [await stage.client() for _ in range(2)]
    assert open_requests(stage.gateway.connections) == ()
    for client, path in zip(clients, ("/v1/chat/completions", "/v1/completions?x=1"), strict=True):
        await client.send(stage.post(path=path))
    await stage.until(lambda: len(open_requests(stage.gateway.connections)) == 2)
    found = open_requests(stage.gateway.connections)
    assert {row.path for row in found} == {"/v1/chat/completions", "/v1/completions"}
    (same,) = {(row.model, row.engine, row.client, row.attempts, row.resumes, row.key) for row in found}
    assert same == ("m", stage.target(one, 0).id, "127.0.0.1", 1, 0, "")
    assert found[0].age >= found[1].age > 0
    go_on.set()
    for client in clients:
        assert (await client.reply()).status == 200
    assert open_requests(stage.gateway.connections) == ()
