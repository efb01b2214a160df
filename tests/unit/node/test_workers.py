"""Gateway workers as real processes, without a node around them."""

import asyncio
import http.client
import os
import signal
from collections.abc import Awaitable, Callable

from shoal.gateway.messages import WorkerSettings
from shoal.node.events import Events
from shoal.node.workers import Workers
from support.ports import free_ports


def settings(port: int) -> WorkerSettings:
    return WorkerSettings(
        index=0, workers=0, node="n:1", host="127.0.0.1", port=port, control_socket="/nonexistent"
    )


def run(test: Callable[[Workers, int, Events], Awaitable[None]], count: int = 2) -> None:
    async def whole() -> None:
        port = free_ports(1)[0]
        events = Events()
        workers = Workers(settings(port), count, events, lambda _: None)
        try:
            await workers.start()
            await test(workers, port, events)
        finally:
            workers.kill()
            await until(lambda: all(w["pid"] is None for w in workers.status()))

    asyncio.run(whole())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def version(port: int) -> int:
    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/version")
        status = connection.getresponse().status
        connection.close()
        return status

    return await asyncio.to_thread(ask)


def pids(workers: Workers) -> set[int]:
    return {w["pid"] for w in workers.status() if w["listening"]}


def test_all_workers_listen_and_answer():
    async def test(workers: Workers, port: int, _: Events) -> None:
        assert len(pids(workers)) == 2
        assert await version(port) == 200

    run(test)


def test_a_killed_worker_is_replaced_and_nobody_is_refused_meanwhile():
    async def test(workers: Workers, port: int, events: Events) -> None:
        (victim,) = pids(workers)
        os.kill(victim, signal.SIGKILL)
        assert await version(port) == 200  # waited for the replacement
        await until(lambda: len(pids(workers)) == 1 and victim not in pids(workers))
        assert [e.text for e in events.last()] == ["gateway worker 0 was killed by signal 9: it is replaced"]

    run(test, count=1)


def test_a_reload_replaces_every_worker_and_uses_both_rows_in_turn():
    async def test(workers: Workers, port: int, _: Events) -> None:
        seen = pids(workers)
        for _ in range(3):
            await workers.reload(settings(port), 1.0)
            assert not seen & pids(workers)
            seen |= pids(workers)
            assert await version(port) == 200
        assert workers.metrics.totals().requests["2xx", False] == 3

    run(test)


def test_a_drain_ends_all_workers_and_frees_the_port():
    async def test(workers: Workers, port: int, _: Events) -> None:
        await workers.drain(5.0)
        assert pids(workers) == set()
        try:
            await version(port)
        except ConnectionRefusedError:
            return
        raise AssertionError("the port still answers")

    run(test)
