"""A worker process: started, told, drained, abandoned."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from shoal.gateway import counters
from shoal.gateway.counters import InFlight, SharedMetrics
from shoal.gateway.messages import Drain, EngineFault, TableUpdate, WorkerReady, WorkerSettings
from support.channel import open_node_end


class Node:
    """The node process's side of workers."""

    def __init__(self, stage, workers: int = 1) -> None:
        self.stage = stage
        self.workers = workers
        self.fd = counters.create(workers)
        self.in_flight = InFlight(self.fd, workers)
        self.metrics = SharedMetrics(self.fd, workers)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.channels = []
        self.messages: list[object] = []
        self.sockets = [socket.create_server(("127.0.0.1", 0), reuse_port=True)]
        self.port = stage.port = self.sockets[0].getsockname()[1]
        for _ in range(workers - 1):
            self.sockets.append(socket.create_server(("127.0.0.1", self.port), reuse_port=True))

    def spawn(self, index: int = 0) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        listening = self.sockets[index].fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "shoal.gateway"),
                *("--channel-fd", str(theirs.fileno()), "--counters-fd", str(self.fd)),
                *("--listen-fd", str(listening)),
            ],
            pass_fds=[theirs.fileno(), self.fd, listening],
        )
        theirs.close()
        self.processes.append(process)
        return process, ours

    async def start(self, index: int = 0, **settings) -> subprocess.Popen[bytes]:
        process, ours = self.spawn(index)
        channel = await open_node_end(ours, self.messages.append, lambda _: None)
        self.channels.append(channel)
        channel.send(
            WorkerSettings(**{
                "index": index, "workers": self.workers, "node": "n", "host": "127.0.0.1", "port": self.port,
                "control_socket": self.stage.control, "header_timeout": 1.0, **settings,
            })
        )  # fmt: skip
        return process

    async def ready(self, count: int = 1) -> None:
        await self.stage.until(lambda: sum(isinstance(m, WorkerReady) for m in self.messages) == count, 15)

    def stop_listening(self) -> None:
        for sock in self.sockets:
            sock.close()

    def tell(self, message) -> None:
        for channel in self.channels:
            channel.send(message)

    async def exit_status(self, process: subprocess.Popen[bytes]) -> int:
        await self.stage.until(lambda: process.poll() is not None, 15)
        return process.returncode

    def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.stop_listening()
        os.close(self.fd)


@pytest.fixture
def node(stage):
    node = Node(stage)
    yield node
    node.end()


async def test_a_worker_serves_drains_and_exits(stage, node):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    process = await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(engine)})))  # before it listens: it must not get lost
    await node.ready()
    assert node.messages == [WorkerReady(process.pid)]
    busy, idle = await stage.client(), await stage.client()
    assert (await idle.request(stage.get("/health"))).status == 200
    await busy.send(stage.post())
    await stage.until(lambda: engine.seen)
    assert (node.in_flight.load(0), node.metrics.totals().open_requests) == (1, 1)
    node.stop_listening()
    node.tell(Drain(10.0))
    await stage.until(lambda: refused(node.port))
    assert process.poll() is None, "an answer is still open"
    release.set()
    reply = await busy.reply()
    assert (reply.status, reply.header("connection")) == (200, "close")
    assert await node.exit_status(process) == 0
    assert node.in_flight.load(0) == 0
    assert node.metrics.totals().requests["2xx", False] == 2
    assert node.metrics.totals().open_connections == 0


def refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


async def test_a_drain_ends_in_time_whatever_is_open(stage, node):
    async def hang(connection, _):
        await connection.wait_closed()

    engine = await stage.engine(hang)
    process = await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(engine)})))
    await node.ready()
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    node.tell(Drain(0.3))
    assert await node.exit_status(process) == 0
    assert await client.at_end()
    assert node.in_flight.load(0) == 0


async def test_a_worker_that_loses_its_node_process_finishes_what_is_open_and_exits(stage, node):
    release = asyncio.Event()

    async def wait(connection, _):
        await release.wait()
        await connection.send(stage.OK)

    engine = await stage.engine(wait)
    process = await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(engine)})))
    await node.ready()
    client = await stage.client()
    await client.send(stage.post())
    await stage.until(lambda: engine.seen)
    node.stop_listening()
    node.channels[0].close()
    await stage.until(lambda: refused(node.port))
    release.set()
    assert (await client.reply()).status == 200
    assert await node.exit_status(process) == 0


async def test_an_idle_worker_that_loses_its_node_process_exits_at_once(node):
    process = await node.start()
    await node.ready()
    node.channels[0].close()
    assert await node.exit_status(process) == 0


async def test_a_worker_abandoned_before_it_was_told_anything_exits(node):
    process, ours = node.spawn()
    ours.close()
    assert await node.exit_status(process) == 0


async def test_connections_wait_for_the_next_worker_on_the_socket(stage, node):
    engine = await stage.engine()
    first = await node.start()
    await node.ready()
    first.kill()
    first.wait()
    client = await stage.client()
    await client.send(stage.post())  # accepted by nobody yet
    await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(engine)})))
    assert (await client.reply("POST")).status in (200, 503)  # 503 if it came before the table


async def test_ctrl_c_is_left_to_the_node_process(stage, node):
    process = await node.start()
    await node.ready()
    process.send_signal(signal.SIGINT)
    for _ in range(5):
        assert (await stage.request(stage.get("/version"))).status == 200
    process.send_signal(signal.SIGTERM)
    assert await node.exit_status(process) == 0


async def test_workers_share_the_port_and_the_counts(stage):
    node = Node(stage, workers=2)
    try:
        release = asyncio.Event()

        async def wait(connection, _):
            await release.wait()
            await connection.send(stage.OK)

        engines = [await stage.engine(wait), await stage.engine(wait)]
        for index in range(2):
            await node.start(index)
        node.tell(TableUpdate(stage.table({"m": stage.route(*engines, policy="least_connections")})))
        await node.ready(2)
        clients = [await stage.client() for _ in range(20)]
        for number, client in enumerate(clients):
            await client.send(stage.post())
            await stage.until(lambda: sum(len(engine.seen) for engine in engines) == number + 1)  # noqa: B023
        assert [len(engine.seen) for engine in engines] == [10, 10], "counted over both workers"
        per_worker = [sum(node.in_flight.row(index).tolist()) for index in range(2)]
        assert sum(per_worker) == 20
        assert min(per_worker) > 0
        release.set()
        for client in clients:
            assert (await client.reply()).status == 200
        assert node.metrics.totals().requests["2xx", False] == 20
    finally:
        node.end()


async def test_faults_reach_the_node_process(stage, node):
    dead, live = await stage.dead_engine(), await stage.engine()
    await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(dead, live)})))
    await node.ready()
    for _ in range(3):
        assert (await stage.request(stage.post())).status == 200
    await stage.until(lambda: len(node.messages) == 2)
    assert node.messages[1] == EngineFault("n0/m", "connection refused", 1, 1.0)


async def test_a_table_with_an_unknown_policy_leaves_the_last_in_force(stage, node):
    engine = await stage.engine()
    await node.start()
    node.tell(TableUpdate(stage.table({"m": stage.route(engine)})))
    node.tell(TableUpdate(stage.table({"x": stage.route(engine, model="x", policy="astrology")})))
    await node.ready()
    assert (await stage.request(stage.post())).status == 200
