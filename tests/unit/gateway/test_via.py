"""The way to an engine through the relay, and past it while it cannot be used."""

from __future__ import annotations

import pytest

from shoal.gateway import context

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n"


@pytest.fixture
def via(tmp_path) -> str:
    return str(tmp_path / "r0.sock")


async def relay_of(stage, via, behave):
    """Start a relay that behaves as told."""
    relay = await stage.engine(behave)
    await relay.stop()
    await relay.start(via)
    return relay


async def open_via(stage, engine, via, **settings):
    table = stage.table({"m": stage.route(engine, via=via, policy="round_robin")})
    await stage.open(table=table, **settings)
    return table


async def test_requests_go_through_the_relay_on_kept_connections(stage, via):
    engine = await stage.engine(OK + b"tcp!")
    relay = await relay_of(stage, via, stage.answer(OK + b"via!"))
    await open_via(stage, engine, via)
    for _ in range(3):
        reply = await stage.request(stage.post())
        assert reply.body == b"via!"
        assert reply.header("x-shoal-engine") == "n0/m"
    assert len(relay.connections) == 1
    assert not engine.seen


async def test_without_a_relay_requests_go_to_the_engine(stage, via):
    engine = await stage.engine(OK + b"tcp!")
    await open_via(stage, engine, via)
    assert (await stage.request(stage.post())).body == b"tcp!"
    assert not stage.faults


@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_that_the_relay_cuts_off_goes_on_by_tcp_also_where_there_is_one_engine(
    stage, via, begun, monkeypatch
):
    monkeypatch.setattr(context, "DETOUR", 0.05)
    engine = await stage.engine(OK + b"tcp!")

    async def cut(connection, _):
        if begun:
            await connection.send(OK + b"v")
        connection.reset()

    relay = await relay_of(stage, via, cut)
    await open_via(stage, engine, via)
    reply = await stage.request(stage.post())
    assert (reply.status, reply.body) == (200, b"tcp!")
    assert len(relay.seen) == 1
    (fault,) = stage.faults
    assert fault.reason.endswith(", on the way through this node's relay"), "it may not be the engine's"
    # The others go by tcp at once, too, until the detour is over.
    relay.behave = stage.answer(OK + b"via!")
    await stage.until(lambda: not stage.gateway._detours)
    assert (await stage.request(stage.post())).body == b"via!"


async def test_a_table_with_another_way_leaves_what_is_under_way_alone(stage, via):
    engine = await stage.engine(OK + b"tcp!")

    async def slow(connection, _):
        stage.gateway.apply(stage.table({"m": stage.route(engine)}))
        pools = stage.gateway._pools
        assert stage.gateway.routes_to(pools["n0/m"])
        await connection.send(OK + b"via!")

    await relay_of(stage, via, slow)
    await open_via(stage, engine, via)
    before = stage.gateway._pools["n0/m"]
    assert (await stage.request(stage.post())).body == b"via!"
    assert stage.gateway._pools["n0/m"] is not before
    assert stage.gateway.routes_to(before)
    assert (await stage.request(stage.post())).body == b"tcp!"
