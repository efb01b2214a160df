"""The processes of a group as they meet and work, in one process here; tests/scenarios has real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from shoal.sim.group import Follower, GroupError, Leader
from shoal.sim.listener import CannotListenError
from shoal.sim.place import Place
from support.ports import free_ports

DEADLINE = 10.0


def places(count: int = 2, **more: float) -> list[Place]:
    port = free_ports(1)[0]
    one = Place(nnodes=count, rank=0, master_addr="127.0.0.1", master_port=port, tensor_parallel=count)
    return [replace(one, rank=rank, **more) for rank in range(count)]  # type: ignore[arg-type]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(DEADLINE):
            await test()

    asyncio.run(within_time())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - seen from outside
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def formed(
    all_places: list[Place],
) -> AsyncIterator[tuple[Leader, list[Follower], list[asyncio.Task[None]]]]:
    """Yield a group at work, and the followers' tasks."""
    leader = Leader(all_places[0])
    followers = [Follower(place) for place in all_places[1:]]
    server, *_ = await asyncio.gather(leader.gather(), *(follower.join() for follower in followers))
    tasks = [asyncio.create_task(follower.work()) for follower in followers]
    await leader.loaded()
    try:
        yield leader, followers, tasks
    finally:
        for task in tasks:
            task.cancel()
        server.close()


async def step(leader: Leader) -> None:
    """Wait until the group has done a step."""
    over = asyncio.Event()
    leader.begin()
    if not leader.done(over.set):
        await over.wait()
    assert leader.done(over.set)


def test_a_group_works_in_step() -> None:
    async def test() -> None:
        async with formed(places(3)) as (leader, _, _):
            for _ in range(5):
                await step(leader)
            said = leader.describe()
            assert said["steps"] == 5
            assert [f["done"] for f in said["followers"]] == [5, 5]  # type: ignore[attr-defined]

    run(test)


def test_the_leader_waits_until_all_have_come_and_all_have_loaded() -> None:
    async def test() -> None:
        first, second, third = places(3)
        leader = Leader(first)
        gathering = asyncio.create_task(leader.gather())
        one, other = Follower(second), Follower(third)
        joining = asyncio.create_task(one.join())
        await until(lambda: 1 in leader.members)
        assert not gathering.done()
        assert not joining.done()
        await asyncio.gather(gathering, joining, other.join())
        work = [asyncio.create_task(one.work())]
        loading = asyncio.create_task(leader.loaded())
        await until(lambda: leader.members[1].loaded)
        assert not loading.done()
        work.append(asyncio.create_task(other.work()))
        await loading
        for task in work:
            task.cancel()
        gathering.result().close()

    run(test)


def test_who_does_not_come_is_waited_for_in_vain() -> None:
    async def test() -> None:
        with pytest.raises(GroupError, match=r"waiting for clients. 1/2 clients joined"):
            await Leader(places(join_timeout=0.05)[0]).gather()
        with pytest.raises(GroupError, match="has timed out after 50ms"):
            await Follower(places(join_timeout=0.05)[1]).join()

    run(test)


def test_a_follower_that_leaves_before_the_group_is_there_may_come_again() -> None:
    async def test() -> None:
        first, second, third = places(3)
        leader = Leader(first)
        gathering = asyncio.create_task(leader.gather())
        joining = asyncio.create_task(Follower(second).join())
        await until(lambda: leader.members)
        joining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await joining
        await until(lambda: not leader.members)
        await asyncio.gather(gathering, Follower(second).join(), Follower(third).join())
        gathering.result().close()

    run(test)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"rank": 2, "nnodes": 4, "tensor_parallel": 4},
            r"the leader has .* \(3, 3, 1\), this follower .* \(4, 4, 1\)",
        ),
        ({}, "node rank 1 is taken"),
    ],
)
def test_a_follower_that_does_not_belong_is_sent_away(change: dict[str, int], why: str) -> None:
    async def test() -> None:
        first, second, third = places(3)
        leader = Leader(first)
        gathering = asyncio.create_task(leader.gather())
        waiting = asyncio.create_task(Follower(second).join())
        await until(lambda: leader.members)
        with pytest.raises(GroupError, match=why):
            await Follower(replace(second, **change)).join()  # type: ignore[arg-type]
        await asyncio.gather(gathering, waiting, Follower(third).join())
        gathering.result().close()

    run(test)


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n", b"{}\n", b"[]\n", b'{"rank": 9, "pid": 1, "shape": [2, 2, 1]}\n']
)
def test_strangers_at_the_master_port_are_sent_away(line: bytes) -> None:
    async def test() -> None:
        mine, theirs = places()
        gathering = asyncio.create_task(Leader(mine).gather())
        follower = Follower(theirs)
        reader, writer = await follower._connect()
        writer.write(line)
        assert await reader.read()
        assert await reader.read() == b""
        await asyncio.gather(gathering, follower.join())
        gathering.result().close()

    run(test)


def test_a_master_port_in_use_is_an_error() -> None:
    async def test() -> None:
        place = places()[0]
        with socket.create_server(("127.0.0.1", place.master_port)), pytest.raises(CannotListenError):
            await Leader(place).gather()

    run(test)


@pytest.mark.parametrize(
    "settings",
    [{"execute_timeout": 0.1}, {"execute_timeout": 3600, "hangs_without_follower": False}],
    ids=["by the clock", "at once with gloo"],
)
def test_a_lost_follower_ends_the_group_only_once_there_is_work(settings: dict[str, Any]) -> None:
    async def test() -> None:
        async with formed(places(**settings)) as (leader, followers, _):
            died = asyncio.Event()
            leader.watch(died.set)
            writer = followers[0]._writer
            assert writer is not None
            writer.close()
            await until(lambda: leader.members[1].lost)
            assert not died.is_set()
            leader.begin()
            assert not leader.done(lambda: None)
            await died.wait()

    run(test)


def test_a_follower_with_a_dead_worker_ends_the_group_at_once() -> None:
    async def test() -> None:
        async with formed(places(execute_timeout=3600)) as (leader, followers, _):
            died = asyncio.Event()
            leader.watch(died.set)
            await followers[0].give_up()
            await died.wait()

    run(test)


@pytest.mark.parametrize("outlives", [True, False])
def test_followers_outlive_their_leader_unless_told_otherwise(outlives: bool) -> None:
    async def test() -> None:
        async with formed(places(outlives_leader=outlives)) as (leader, followers, tasks):
            transport = leader.members[1]._transport
            reader = followers[0]._reader
            assert transport is not None
            assert reader is not None
            transport.abort()
            if outlives:
                await until(lambda: reader.at_eof() or reader.exception() is not None)
                assert not tasks[0].done()
            else:
                await tasks[0]

    run(test)


def test_who_joins_says_who_it_is() -> None:
    async def test() -> None:
        async with formed(places()) as (leader, _, _):
            said = json.loads(json.dumps(leader.describe()))
            assert said["nnodes"] == 2
            assert said["followers"][0]["rank"] == 1
            assert said["followers"][0]["connected"]

    run(test)
