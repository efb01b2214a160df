"""Connections beyond the limit."""

from __future__ import annotations

import asyncio


async def test_connections_beyond_the_limit_get_503_and_are_closed(stage):
    engine = await stage.engine()
    await stage.open(engine, max_connections=3)
    held = [await stage.client() for _ in range(3)]
    for client in held:
        assert (await client.request(stage.post())).status == 200
    for sends in (b"", stage.post(), stage.get("/version")):
        client = await stage.client()
        if sends:
            await client.send(sends)
        reply = await client.reply()
        assert (reply.status, reply.header("connection"), reply.header("retry-after")) == (503, "close", "1")
        assert reply.error["code"] == "too_many_connections"
        assert await client.at_end()
    assert len(engine.seen) == 3
    assert (await held[0].request(stage.post())).status == 200, "those within the limit go on"
    held[1].close()
    await stage.until(lambda: len(stage.gateway.connections) == 2)
    assert (await stage.request(stage.post())).status == 200, "and there is room for another one now"
    totals = stage.metrics.totals()
    assert totals.requests["5xx", False] == 3
    assert (totals.connections, totals.open_connections) == (7, len(stage.gateway.connections))


async def test_a_refused_connection_that_says_nothing_is_cut_off(stage):
    await stage.open(await stage.engine(), max_connections=1)
    held, refused = await stage.client(), await stage.client()
    assert (await refused.reply()).status == 503
    assert await refused.at_end()
    # The client's half is still open: a second later the connection is gone.
    end = asyncio.get_running_loop().time() + 5
    while not refused.writer.is_closing():
        assert asyncio.get_running_loop().time() < end
        refused.writer.write(b"x")
        await asyncio.sleep(0.02)
    held.close()


async def test_the_limit_holds_for_the_whole_worker_at_many_connections(stage):
    await stage.open(await stage.engine(), max_connections=50)
    held = [await stage.client() for _ in range(50)]
    await stage.until(lambda: len(stage.gateway.connections) == 50)
    replies = await asyncio.gather(*(stage.request(stage.post()) for _ in range(200)))
    assert {reply.status for reply in replies} == {503}
    assert len(stage.gateway.connections) == 50
    assert (await held[0].request(stage.post())).status == 200
