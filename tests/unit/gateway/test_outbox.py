"""What leaves at the end of a turn of the loop, and that nothing is lost or changes its place by it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from shoal.gateway import outbox as module
from shoal.gateway.client import ClientConnection
from shoal.gateway.counters import Cell
from shoal.gateway.outbox import MOST, REST, TRIED, Outbox
from shoal.gateway.upstream import UpstreamConnection

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
WARM = 3
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture
def waiting(monkeypatch):
    """Have everything wait for the end of its turn, however little a turn has."""
    monkeypatch.setattr(module, "WORTH", 0.0)


class Sender:
    """Notes when it flushes."""

    def __init__(self, log: list[object], name: object) -> None:
        self.log = log
        self.name = name

    def flush(self) -> None:
        self.log.append(self.name)


class Unlucky:
    """Fails."""

    def flush(self) -> None:
        raise RuntimeError("no")


async def test_senders_flush_at_the_end_of_the_turn_in_their_order():
    outbox, log = Outbox(), []
    for name in "abc":
        outbox.add(Sender(log, name))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["a", "b", "c"]
    outbox.add(Sender(log, "d"))
    await asyncio.sleep(0)
    assert log == ["a", "b", "c", "d"]


async def test_many_do_not_wait_for_the_end():
    outbox, log = Outbox(), []
    for name in range(MOST + 1):
        outbox.add(Sender(log, name))
    assert log == [*range(MOST)]
    await asyncio.sleep(0)
    assert log == [*range(MOST + 1)]


@pytest.mark.parametrize("together", [1, 2])
async def test_where_a_turn_has_one_nothing_waits_for_a_while(together):
    outbox, log = Outbox(), []
    for _ in range(TRIED):
        for _ in range(together):
            outbox.add(Sender(log, "before"))
        await asyncio.sleep(0)
    assert log == ["before"] * TRIED * together
    log.clear()
    at_once = 0
    for number in range(REST + 1):
        outbox.add(Sender(log, number))
        at_once += log[-1:] == [number]
        await asyncio.sleep(0)
    assert log == [*range(REST + 1)]
    if together == 1:
        assert at_once == REST, "the next is tried again"
    else:
        assert 0 < at_once < REST, "it goes on until a turn has one"


async def test_one_that_fails_holds_up_no_other():
    caught: list = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context["exception"]))
    outbox, log = Outbox(), []
    for sender in Sender(log, 1), Unlucky(), Sender(log, 2):
        outbox.add(sender)
    await asyncio.sleep(0)
    assert log == [1, 2]
    assert [str(error) for error in caught] == ["no"]


async def test_all_that_the_loop_finds_to_read_is_read_before_anything_is_sent(stage):
    loop = asyncio.get_running_loop()
    outbox, log = Outbox(), []
    pairs = [socket.socketpair() for _ in range(3)]

    def read(end: socket.socket) -> None:
        log.append("read")
        loop.remove_reader(end)
        outbox.add(Sender(log, "sent"))

    for ours, theirs in pairs:
        loop.add_reader(ours, read, ours)
        theirs.send(b"x")
    await stage.until(lambda: len(log) == 2 * len(pairs))
    for ends in pairs:
        for end in ends:
            end.close()
    assert log == ["read"] * 3 + ["sent"] * 3


async def warm(stage, count: int = 1) -> tuple[list, list[ClientConnection]]:
    """Return so many clients and their connections in the gateway, which knows the engine's usual answer by then."""
    clients = [await stage.client() for _ in range(count)]
    for client in clients * WARM:
        assert (await client.request(stage.post())).status == 200
    return clients, list(stage.gateway.connections)


def upstreams(stage) -> list[UpstreamConnection]:
    return [connection for pool in stage.gateway.routes["m"].pools for connection in pool._idle]


async def test_requests_of_one_turn_are_sent_together_and_so_are_their_answers(stage, waiting, monkeypatch):
    await stage.open(await stage.engine())
    clients, connections = await warm(stage, 5)
    for connection in connections:  # each has a connection to the engine to itself after that
        connection.data_received(stage.post())
    assert [(await client.reply()).status for client in clients] == [200] * 5
    flushed: list[int] = []
    flush = Outbox.flush

    def note(outbox: Outbox) -> None:
        if outbox._due:
            flushed.append(len(outbox._due))
        flush(outbox)

    monkeypatch.setattr(Outbox, "flush", note)
    for connection in connections:
        connection.data_received(stage.post())
    assert flushed == []
    assert [(await client.reply()).status for client in clients] == [200] * 5
    assert flushed[0] == 5
    assert sum(flushed) == 10


async def test_pipelined_answers_keep_their_order_whoever_gives_them(stage, waiting):
    await stage.open(await stage.engine())
    (client,), _ = await warm(stage)
    for _ in range(3):
        await client.send(stage.post() + stage.get("/nope") + stage.post() * 2 + stage.get("/nope"))
        assert [(await client.reply()).status for _ in range(5)] == [200, 404, 200, 200, 404]


async def test_the_last_answer_of_a_connection_goes_out_before_it_is_closed(stage, waiting):
    await stage.open(await stage.engine())
    (client,), _ = await warm(stage)
    answer = await client.request(stage.post(extra="Connection: close\r\n"))
    assert answer.status == 200
    assert answer.complete
    assert await client.at_end()


@pytest.mark.parametrize("size", [10, 15_000, 17_000, 200_000])
async def test_answers_of_any_size_arrive(stage, waiting, size):
    body = b'{"text":"%b"}' % (b"x" * size)
    await stage.open(await stage.engine(ANSWER % (len(body), body)))
    (client,), _ = await warm(stage)
    await client.send((stage.post() + stage.get("/nope")) * 3)
    for _ in range(3):
        assert (await client.reply()).body == body
        assert (await client.reply()).status == 404


async def test_what_comes_before_the_request_is_sent_is_no_answer(stage, waiting):
    engine = await stage.engine()
    await stage.open(engine)
    (client,), (connection,) = await warm(stage)
    (upstream,) = upstreams(stage)
    connection.data_received(stage.post())
    upstream.data_received(LATE)
    assert (await client.reply()).status == 200
    assert len(engine.seen) == WARM + 1
    assert stage.gateway.cells[Cell.STALE_RETRIES] == 1
    assert stage.faults == []


async def test_an_engine_that_speaks_before_it_is_asked_has_failed(stage, waiting):
    await stage.open(await stage.engine())
    (client,), (connection,) = await warm(stage)
    (upstream,) = upstreams(stage)
    connection.data_received(stage.post())
    upstream.reused = False
    upstream.data_received(LATE)
    answer = await client.reply()
    assert answer.status == 502
    assert b"spoke before it was asked" in answer.body


async def test_an_answer_goes_out_though_the_client_ends_its_side_in_the_same_turn(stage, waiting):
    held = asyncio.Event()
    served = 0

    async def behave(connection, _) -> None:
        nonlocal served
        served += 1
        if served > WARM:
            await held.wait()
        await connection.send(stage.OK)

    await stage.open(await stage.engine(behave))
    (client,), (connection,) = await warm(stage)
    (upstream,) = upstreams(stage)
    await client.send(stage.post())
    await stage.until(lambda: served == WARM + 1)
    upstream.data_received(stage.OK)
    connection.eof_received()
    connection._transport.close()  # as the loop does then
    assert (await client.reply()).status == 200
    assert await client.at_end()


async def test_a_request_is_not_sent_once_its_connection_is_given_up(stage, waiting):
    engine = await stage.engine()
    await stage.open(engine)
    (client,), (connection,) = await warm(stage)
    connection.data_received(stage.post())
    connection.exchange.cancel()
    client.reset()
    await stage.until(lambda: engine.connections[0].closed)
    assert len(engine.seen) == WARM
