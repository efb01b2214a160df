"""Calls between nodes through real brokers: nothing is lost, and nothing is answered twice."""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from lib.kafka import Kafka
from lib.rabbitmq import RabbitMQ
from shoal.transport.contract import Answer, CarrierError
from support.dead_letters import dead_letters
from support.ports import free_ports
from support.queued import Bench, bench, body, call, run, until
from support.queued_node import carrier, expected

pytestmark = pytest.mark.timeout(
    400
)  # a broker needs seconds to start, and minutes where others need the machine
_numbers = itertools.count()
# Kafka does not know who reads a topic.
tells_who_is_there = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
# noida-db never takes partitions from a dead member of a group.
notices_the_dead = pytest.mark.parametrize("broker", ["rabbitmq", "tansu"], indirect=True)
Make = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture(scope="module", params=["rabbitmq", "tansu", "noida"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitMQ | Kafka]:
    directory = tmp_path_factory.mktemp(request.param)
    running: RabbitMQ | Kafka
    if request.param == "rabbitmq":
        running = RabbitMQ(directory, free_ports(3))
    else:
        running = Kafka(request.param, directory, *free_ports(1))
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def protocol(broker: RabbitMQ | Kafka) -> str:
    return "rabbitmq" if isinstance(broker, RabbitMQ) else "kafka"


@pytest.fixture
def make(protocol: str, broker: RabbitMQ | Kafka, tmp_path: Path) -> Make:
    def made(**options: Any) -> AbstractAsyncContextManager[Bench]:
        return bench(protocol, broker.url, tmp_path, f"t{os.getpid()}-{next(_numbers)}", **options)

    return made


def test_streams_are_spread_over_nodes_and_arrive_whole_and_in_order(make: Make) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            engines = [await nodes.serving(f"node{n}:1", slots=8) for n in range(2)]

            async def one(name: str) -> None:
                answer = await asking.call(call(name, pieces=20, every=0.01))
                assert answer.status == 200
                assert (b"x-id", name.encode()) in list(answer.headers)
                assert answer.served_by.startswith("node")
                assert await body(answer) == expected(name, 20)

            await asyncio.gather(*(one(f"call{n}") for n in range(60)))
            executed = [name for engine in engines for name in engine.executed]
            assert sorted(executed) == sorted(f"call{n}" for n in range(60))
            assert min(len(engine.executed) for engine in engines) > 5

    run(test())


def test_an_engine_stops_when_nobody_reads_on_or_waits(make: Make) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking, engine = await nodes.asking(), await nodes.serving("node:1", slots=1)
            answer = await asking.call(call("read", pieces=100_000, every=0.02))
            await anext(answer.chunks)
            close: Any = answer.chunks
            await close.aclose()
            await until(lambda: "read" in engine.stopped, what="the engine of a stream stops")
            waiting = asyncio.create_task(asking.call(call("first", first=1000)))
            await until(lambda: "first" in engine.executed, what="it has begun")
            queued = asyncio.create_task(asking.call(call("queued")))
            await asyncio.sleep(0)
            queued.cancel()
            await asyncio.gather(queued, return_exceptions=True)
            waiting.cancel()
            await until(lambda: "first" in engine.stopped, what="the engine of a request stops")
            assert await body(await asking.call(call("last"))) == expected("last", 1)
            assert engine.executed == ["read", "first", "last"]

    run(test())


@notices_the_dead
def test_what_a_killed_node_had_is_answered_by_another_one_or_ends_with_an_error(make: Make) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            doomed = await nodes.process("doomed:1")
            stream = await asking.call(call("stream", pieces=100_000, every=0.02))
            begun = await anext(stream.chunks)
            waits = asyncio.create_task(asking.call(call("waits", first=3, pieces=3)))
            await until(lambda: "waits" in doomed.lines(), what="it waits for its engine")
            other = await nodes.serving("other:1")
            doomed.kill()
            with pytest.raises(CarrierError):
                begun += await body(stream)
            assert begun.startswith(b"stream:0 ")  # and nothing of another attempt
            assert begun == expected("stream", begun.count(b" "))
            answer = await waits
            assert answer.served_by == "other:1/engine"
            assert await body(answer) == expected("waits", 3)
            assert other.ended == ["waits"]

    run(test())


@tells_who_is_there
def test_a_node_that_asked_and_died_is_not_worked_for(
    make: Make, protocol: str, broker: RabbitMQ | Kafka
) -> None:
    async def test() -> None:
        async with make() as nodes:
            engine = await nodes.serving("node:1")
            gone = carrier(protocol, nodes.settings("gone:1"), {}, None)
            await gone.start()
            task = asyncio.create_task(gone.call(call("orphan", pieces=100_000, every=0.02)))
            await task
            await gone._broker.close()  # as a process that is killed: without a word
            await until(lambda: "orphan" in engine.stopped, what="its engine stops")

    run(test())


def test_the_deadline_ends_a_request_that_no_node_had_room_for(make: Make, protocol: str) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            with pytest.raises(CarrierError, match="deadline"):
                await asking.call(call("late", after=1.0))
            engine = await nodes.serving("node:1")
            assert await body(await asking.call(call("next"))) == expected("next", 1)
            assert engine.executed == ["next"]
            found = await dead_letters(protocol, nodes.url, nodes.prefix, 1)
            assert found.keys() == {"late"}
            assert found["late"] == "expired" or "deadline" in found["late"]

    run(test())


def test_urgent_requests_go_before_ordinary_ones_and_those_before_batches(make: Make) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            names = (("b1", 0), ("b2", 0), ("o1", 1), ("o2", 1), ("u1", 5))
            tasks = [asyncio.create_task(asking.call(call(name, level, first=1.5))) for name, level in names]
            engine = await nodes.serving("node:1", slots=1)
            for task in tasks:
                await body(await task)
            # What ordinary requests need they get beside a batch; what is the highest that waits goes first.
            assert sorted(engine.executed) == sorted(name for name, _ in names)
            order = engine.executed.index
            assert order("u1") < order("o2")
            assert max(order("o1"), order("u1")) < order("b2")

    run(test())


def test_more_than_the_queue_holds_is_refused_and_the_rest_is_answered(make: Make) -> None:
    async def test() -> None:
        async with make(max_queue=5) as nodes:
            asking = await nodes.asking()
            # A broker may notice late that a queue is full, so requests come until one is refused.
            tasks: list[asyncio.Task[Answer]] = []
            async with asyncio.timeout(120):
                while not any(task.done() for task in tasks):
                    tasks += [asyncio.create_task(asking.call(call(f"c{len(tasks) + n}"))) for n in range(10)]
                    await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            await nodes.serving("node:1")
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [a for a in answers if isinstance(a, CarrierError)]
            assert refused
            assert all(error.unsent and "wait" in str(error) for error in refused)
            assert len(refused) < len(tasks)
            whole = [await body(a) for a in answers if not isinstance(a, BaseException)]
            assert len(whole) == len(tasks) - len(refused)

    run(test())


@notices_the_dead
def test_a_request_that_kills_nodes_ends_among_the_dead_letters(make: Make, protocol: str) -> None:
    async def test() -> None:
        async with make(redeliveries=1) as nodes:
            asking = await nodes.asking()
            for n in range(3):
                await nodes.process(f"doomed{n}:1")
            with pytest.raises(CarrierError, match=r"died"):
                await asking.call(call("deadly", 0, deadly=True))
            found = await dead_letters(protocol, nodes.url, nodes.prefix, 1)
            assert "died" in found["deadly"]
            await nodes.serving("other:1")
            assert await body(await asking.call(call("next"))) == expected("next", 1)

    run(test())


# noida-db keeps the members of groups over its own death, too, and these have new names then.
@notices_the_dead
def test_the_broker_may_be_killed_and_started_under_load(make: Make, broker: RabbitMQ | Kafka) -> None:
    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            engines = [await nodes.serving(f"node{n}:1") for n in range(2)]
            # RabbitMQ's queues that are less than two seconds old when it dies may come back stuck, and are made anew.
            # Tansu loses all it has.
            answered: list[str] = []

            async def batch(name: str) -> None:
                assert await body(await asking.call(call(name, 0, first=0.1))) == expected(name, 1)
                answered.append(name)

            names = [f"b{n}" for n in range(80)]
            tasks = [asyncio.create_task(batch(name)) for name in names]
            online = asyncio.create_task(asking.call(call("online", first=1000)))
            await until(lambda: len(answered) > 10, what="some are answered")
            await asyncio.to_thread(broker.kill)
            with pytest.raises(CarrierError, match="away"):
                await online
            assert asking.trouble is not None
            with pytest.raises(CarrierError) as refused:
                await asking.call(call("refused"))
            assert refused.value.unsent
            later = asyncio.create_task(batch("later"))
            await asyncio.to_thread(broker.start)
            await asyncio.gather(*tasks, later)
            assert sorted(answered) == sorted([*names, "later"])
            assert asking.trouble is None
            # Some were begun again; but none of them after its answer.
            assert sum(len(engine.ended) for engine in engines) < 2 * len(names)
            assert await body(await asking.call(call("again"))) == expected("again", 1)

    run(test())


@pytest.mark.parametrize("broker", ["tansu"], indirect=True)
def test_a_broker_that_comes_back_empty_before_anyone_has_noticed_is_noticed_all_the_same(
    make: Make, broker: Kafka
) -> None:
    """The first answer that is sent makes topics anew, and clients go on as if they were those before."""

    async def test() -> None:
        async with make() as nodes:
            asking = await nodes.asking()
            for n in range(2):
                await nodes.serving(f"node{n}:1")
            answered: list[str] = []

            async def batch(name: str) -> None:
                assert await body(await asking.call(call(name, 0, first=0.1))) == expected(name, 1)
                answered.append(name)

            tasks = [asyncio.create_task(batch(f"b{n}")) for n in range(80)]
            await until(lambda: len(answered) > 10, what="some are answered")
            await asyncio.to_thread(lambda: (broker.kill(), broker.start()))
            await asyncio.gather(*tasks)

    run(test())


@pytest.mark.parametrize("broker", ["tansu", "noida"], indirect=True)
def test_a_busy_node_goes_on_when_another_one_joins(make: Make) -> None:
    """All its partitions are paused when the group is divided anew."""

    async def test() -> None:
        async with make() as nodes:
            asking, busy = await nodes.asking(), await nodes.serving("busy:1", slots=1)
            held = asyncio.create_task(asking.call(call("held", first=8)))
            await until(lambda: "held" in busy.executed, what="the only slot is taken")
            waiting = [asyncio.create_task(asking.call(call(f"w{n}"))) for n in range(24)]
            other = await nodes.serving("other:1", slots=1)
            for answer in [held, *waiting]:
                await body(await answer)
            assert len(other.executed) > 1
            assert len(busy.executed) > 1

    run(test())


@pytest.mark.parametrize("protocol", ["rabbitmq", "kafka"])
def test_a_broker_that_is_not_there_is_named_with_what_was_tried(protocol: str) -> None:
    async def test() -> None:
        (port,) = free_ports(1)
        nodes = Bench(protocol, f"127.0.0.1:{port}", Path(), "none")
        with pytest.raises(CarrierError, match=rf"127\.0\.0\.1:{port}"):
            await nodes.asking()

    run(test())
