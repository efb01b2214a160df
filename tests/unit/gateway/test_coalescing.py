"""Streams that are read together, when they are, and that nobody can tell. Failures of engines are in test_resume."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from shoal.gateway import coalescing
from shoal.gateway.coalescing import MANY, CoalescedReads
from shoal.gateway.outbox import Outbox
from shoal.gateway.upstream import UpstreamConnection

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
LAST = b"data: [DONE]\n\n"
# Nobody continues these, so what comes is what was sent.
PATH = "/v1/responses"
ASK = b'{"model":"m","stream":true}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(number: int, size: int = 0) -> bytes:
    return b'data: {"n":%d,"text":"%b"}\n\n' % (number, b"x" * size)


def numbers(body: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb'"n":(\d+)', body)]


class Speakers:
    """What engines say: each request's stream says what it is told to, when it is told."""

    def __init__(self) -> None:
        self.connections: list = []
        self.ended = asyncio.Event()

    async def __call__(self, connection, _) -> None:
        await connection.send(HEAD)
        self.connections.append(connection)
        await connection.send(chunk(event(0)))
        await self.ended.wait()
        await connection.send(chunk(LAST) + END)

    async def say(self, number: int, size: int = 0) -> None:
        for connection in self.connections:
            await connection.send(chunk(event(number, size)))


async def begin(stage, count: int) -> tuple[Speakers, list]:
    """Open a gateway and so many streams, one after the other, each with its first event."""
    speakers = Speakers()
    await stage.open(await stage.engine(speakers))
    clients = [await stage.client() for _ in range(count)]
    for client in clients:
        await client.send(stage.post(ASK, PATH))
        await until_heard([client], 0)
    return speakers, clients


async def until_heard(clients: list, number: int) -> None:
    for client in clients:
        await client.reader.readuntil(b'"n":%d,' % number)
        await client.reader.readuntil(b"\n\n\r\n")


async def test_streams_are_read_together_while_much_flows(stage):
    speakers, clients = await begin(stage, MANY)
    reads = stage.gateway.reads
    assert reads.active, "it is tried when there are enough"
    for number in range(1, 101):
        await speakers.say(number)
        await asyncio.sleep(0.002)
    assert reads.active, "much flows"
    await stage.until(lambda: not reads.active)
    await speakers.say(101)
    await until_heard(clients, 101)
    assert not reads.active, "too little flowed for it, and it is not tried again at once"
    await stage.until(lambda: reads.active)
    await speakers.say(102)
    speakers.ended.set()
    for client in clients:
        body, _, complete = await client._chunks()
        assert (numbers(body), complete) == ([102], True)


async def test_quiet_streams_are_tried_more_and_more_rarely(stage, monkeypatch):
    monkeypatch.setattr(coalescing, "MANY", 1)
    monkeypatch.setattr(coalescing, "TRIED", 4)
    monkeypatch.setattr(coalescing, "RETRY", 0.05)
    began: list[float] = []
    begin_reading = CoalescedReads._begin

    def begin_noted(reads: CoalescedReads) -> None:
        began.append(asyncio.get_running_loop().time())
        begin_reading(reads)

    monkeypatch.setattr(CoalescedReads, "_begin", begin_noted)
    await begin(stage, 1)
    await stage.until(lambda: len(began) == 5)
    rests = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert all(rest >= 0.05 * 2**number for number, rest in enumerate(rests)), rests


async def test_a_few_streams_are_read_by_their_transports(stage):
    speakers, clients = await begin(stage, MANY - 1)
    for number in range(1, 20):
        await speakers.say(number)
        await until_heard(clients, number)
        assert not stage.gateway.reads.active


async def test_every_event_comes_through_in_order(stage, together):
    speakers, clients = await begin(stage, 3)
    for number in range(1, 50):
        await speakers.say(number)
        await asyncio.sleep(0)
    speakers.ended.set()
    for client in clients:
        body, _, complete = await client._chunks()
        assert complete
        assert numbers(body) == [*range(1, 50)]
    await stage.until(lambda: stage.open_requests() == 0)
    assert all(connection.transport.is_reading() for connection in idle(stage))


def idle(stage) -> list[UpstreamConnection]:
    (pool,) = stage.gateway.only_route.pools
    return pool._idle


async def test_connections_are_used_again_afterwards(stage, together):
    engine = await stage.engine(HEAD + chunk(event(0)) + chunk(event(1)) + chunk(LAST) + END)
    await stage.open(engine)
    client = await stage.client()
    for _ in range(5):
        reply = await client.request(stage.post(ASK, PATH))
        assert (numbers(reply.body), reply.complete) == ([0, 1], True)
    assert len(engine.connections) == 1
    (connection,) = idle(stage)
    assert connection.reads is None
    await engine.stop()
    await stage.until(lambda: not idle(stage))  # its transport sees it end


async def test_what_is_to_be_sent_does_not_wait_for_a_reading(stage, together, monkeypatch):
    speakers, clients = await begin(stage, 2)
    log: list[str] = []
    for name, owner, method in ("sent", Outbox, "flush"), ("read", UpstreamConnection, "data_received"):
        monkeypatch.setattr(owner, method, _noting(log, name, getattr(owner, method)))
    await speakers.say(1)
    await until_heard(clients, 1)
    assert log[log.index("read") - 1] == "sent"
    speakers.ended.set()


def _noting(log: list[str], name: str, call: Callable[..., None]) -> Callable[..., None]:
    def note(*arguments: object) -> None:
        log.append(name)
        call(*arguments)

    return note


async def test_an_event_in_parts_is_put_together(stage, together):
    speakers, (client,) = await begin(stage, 1)
    (connection,) = speakers.connections
    data = chunk(event(1, 100))
    for at in range(0, len(data), 7):
        await connection.send(data[at : at + 7])
        await asyncio.sleep(0.002)
    speakers.ended.set()
    body, _, complete = await client._chunks()
    assert complete
    assert event(1, 100) in body


async def test_who_says_much_at_once_is_read_by_its_transport(stage, together):
    speakers, clients = await begin(stage, 2)
    first, second = clients
    await speakers.connections[0].send(chunk(event(1, 100_000)))
    await until_heard([first], 1)
    await stage.until(lambda: len(stage.gateway.reads._connections) == 1)
    speakers.ended.set()
    for client in (first, second):
        _, _, complete = await client._chunks()
        assert complete


async def test_backpressure_of_a_client_that_does_not_read_events(stage, together):
    speakers, (client,) = await begin(stage, 1)
    client.writer.transport.pause_reading()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for number in range(1, 20_000):
            await speakers.say(number, 3000)
            sent = number
            await asyncio.sleep(0)
        speakers.ended.set()

    task = asyncio.create_task(flood())
    await stage.until(lambda: sent > 1000)
    await stage.until_still(lambda: sent)
    assert sent < 15_000, "the engine waits"
    client.writer.transport.resume_reading()
    body, _, complete = await client._chunks()
    await task
    assert complete
    assert numbers(body) == [*range(1, 20_000)]


async def test_a_client_that_goes_away_ends_its_stream_alone(stage, together):
    speakers, (one, other) = await begin(stage, 2)
    one.reset()
    await stage.until(lambda: stage.open_requests() == 1)
    await stage.until(lambda: len(stage.gateway.reads._connections) == 1)
    speakers.ended.set()
    _, _, complete = await other._chunks()
    assert complete


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_engine_that_goes_away_is_noticed(stage, together, way):
    speakers, clients = await begin(stage, 2)
    connection = speakers.connections[0]
    if way == "reset":
        connection.reset()
    else:
        connection.writer.close()
    broken = await clients[0]._chunks()
    assert b"server_error" in broken[0], "it ends with an event that says so"
    speakers.ended.set()
    assert (await clients[1]._chunks())[2]


async def test_a_connection_that_is_lost_meanwhile_is_forgotten(stage, together):
    """As when what is still written of its request fails."""
    speakers, clients = await begin(stage, 2)
    reads = stage.gateway.reads
    next(iter(reads._connections.values())).transport.abort()
    await stage.until(lambda: len(reads._connections) == 1)
    speakers.ended.set()
    ended = [await client._chunks() for client in clients]
    assert sum(b"[DONE]" in body for body, _, _ in ended) == 1


async def test_one_that_is_being_lost_is_not_taken(stage, monkeypatch):
    monkeypatch.setattr(coalescing, "MANY", 2)
    monkeypatch.setattr(coalescing, "WORTH", 0.0)
    speakers, (_, *clients) = await begin(stage, 1)
    reads = stage.gateway.reads
    next(iter(reads._connections.values())).transport.abort()
    clients = [await stage.client() for _ in range(2)]
    for client in clients:
        await client.send(stage.post(ASK, PATH))
    await until_heard(clients, 0)
    assert reads.active
    speakers.ended.set()
    for client in clients:
        assert (await client._chunks())[2]


async def test_an_error_in_one_stream_is_the_end_of_no_other(stage, together, monkeypatch):
    speakers, clients = await begin(stage, 2)
    caught: list = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context["exception"]))
    unlucky = next(iter(stage.gateway.reads._connections.values()))
    receive = UpstreamConnection.data_received

    def fail(connection: UpstreamConnection, data: bytes) -> None:
        if connection is unlucky:
            raise RuntimeError("no")
        receive(connection, data)

    monkeypatch.setattr(UpstreamConnection, "data_received", fail)
    await speakers.say(1)
    await stage.until(lambda: caught)
    speakers.ended.set()
    ended = [await client._chunks() for client in clients]
    assert sum(b"[DONE]" in body for body, _, _ in ended) == 1
    assert [str(error) for error in caught] == ["no"]


async def test_tls_of_which_only_the_inside_is_known_is_left_to_its_transport(stage, together):
    """That of external engines, which asyncio makes together with the connection."""
    connection = UpstreamConnection(None)  # type: ignore[arg-type]
    connection.connection_made(SimpleNamespace(get_extra_info={"sslcontext": object()}.get))  # type: ignore[arg-type]
    reads = CoalescedReads(Outbox())
    reads.add(connection)
    assert connection.reads is None
    assert not reads.active
