"""The channel: messages arrive whole and in order, or the channel closes."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from shoal.gateway import channel as module
from shoal.gateway.channel import open_worker_end
from shoal.gateway.messages import Drain, EngineFault, TableUpdate, WorkerFailed, WorkerReady, WorkerSettings
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable
from support.channel import open_node_end

SETTINGS = WorkerSettings(index=1, workers=2, node="n", host="h", port=3, control_socket="/c")
TABLE = TableUpdate(
    RoutingTable(
        version=3,
        routes={
            "m": ModelRoute(
                model="m", policy="p", engines=(EngineTarget(id="n/m", slot=1, host="h", port=2),)
            )
        },
        models_body=bytes(range(256)),
    )
)


class End:
    def __init__(self) -> None:
        self.messages: list[object] = []
        self.closed: list[Exception | None] = []


async def pair() -> tuple[module.Channel, End, module.Channel, End]:
    ours, theirs = socket.socketpair()
    node, worker = End(), End()
    return (
        await open_node_end(ours, node.messages.append, node.closed.append),
        node,
        await open_worker_end(theirs, worker.messages.append, worker.closed.append),
        worker,
    )


async def test_messages_arrive_in_order_both_ways(stage):
    node_channel, node, worker_channel, worker = await pair()
    sent = [SETTINGS, TABLE, Drain(1.5)]
    answers = [WorkerReady(7), EngineFault("n/m", "refused", 3), WorkerFailed("no")]
    for message, answer in zip(sent, answers, strict=True):
        node_channel.send(message)
        worker_channel.send(answer)
    await stage.until(lambda: len(node.messages) == len(worker.messages) == 3)
    assert (worker.messages, node.messages) == (sent, answers)
    node_channel.close()
    await stage.until(lambda: node.closed and worker.closed)
    assert worker.closed == [None]
    worker_channel.send(WorkerReady(7))  # dropped, no error


async def test_a_large_table_arrives(stage):
    node_channel, _, worker_channel, worker = await pair()
    target = TABLE.table.routes["m"].engines[0]
    routes = {f"m{n}": ModelRoute(model=f"m{n}", policy="p", engines=(target,) * 50) for n in range(300)}
    node_channel.send(TableUpdate(RoutingTable(version=1, routes=routes)))
    await stage.until(lambda: worker.messages)
    assert worker.messages[0].table.routes == routes
    node_channel.close()
    worker_channel.close()


async def test_messages_may_come_in_any_pieces(stage):
    ours, theirs = socket.socketpair()
    end = End()
    channel = await open_worker_end(theirs, end.messages.append, end.closed.append)
    payload = msgspec.msgpack.encode(TABLE)
    for byte in (len(payload).to_bytes(4, "big") + payload) * 2:
        channel.data_received(bytes([byte]))
    assert end.messages == [TABLE, TABLE]
    channel.close()
    ours.close()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", b"\0\0\0\x03abc"])
async def test_garbage_closes_the_channel_and_says_why(stage, garbage):
    ours, theirs = socket.socketpair()
    end = End()
    await open_worker_end(theirs, end.messages.append, end.closed.append)
    ours.send(garbage)
    await stage.until(lambda: end.closed)
    assert end.messages == []
    assert isinstance(end.closed[0], ValueError | msgspec.MsgspecError)
    ours.close()
    await asyncio.sleep(0)
