"""Engines get as many requests as they should have; the others wait, in order, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from shoal.gateway.counters import Cell

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Gate:
    """An engine's behaviour: it answers when it is told to, the requests in the order of their arrival."""

    def __init__(self) -> None:
        self.held: list[tuple[str, asyncio.Event]] = []
        self.most = 0  # requests at the same time
        self.started: list[str] = []
        self._open = 0

    async def __call__(self, connection, seen) -> None:
        name = seen.header(b"x-name") or b""
        event = asyncio.Event()
        self.held.append((name.decode(), event))
        self.started.append(name.decode())
        self._open += 1
        self.most = max(self.most, self._open)
        gone = asyncio.create_task(connection.wait_closed())
        done = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= not event.is_set()
            for task in (gone, done):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
        if event.is_set():
            await connection.send(HEAD)

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self.held.pop(0)[1].set()
            self._open -= 1

    def open(self) -> int:
        return self._open


def ask(stage, name: str, extra: str = "", body: bytes = b'{"model":"m"}') -> asyncio.Task:
    return asyncio.create_task(stage.request(stage.post(body, extra=f"X-Name: {name}\r\n{extra}")))


def waiting(stage) -> int:
    return sum(a.waiting for a in stage.gateway._admissions.values())


async def asked(stage, name: str, extra: str = "", body: bytes = b'{"model":"m"}') -> asyncio.Task:
    """Ask, and return when the request waits."""
    before = waiting(stage)
    task = ask(stage, name, extra, body)
    await stage.until(lambda: waiting(stage) == before + 1)
    return task


async def filled(stage, gate: Gate, capacity: int = 1, **settings) -> list[asyncio.Task]:
    """Open the gateway on one engine of a capacity, and fill the engine."""
    engine = await stage.engine(gate)
    await stage.open(table=stage.table({"m": stage.route(engine, capacity=capacity)}), **settings)
    tasks = []
    for i in range(capacity):
        tasks.append(ask(stage, f"first{i}"))
        await stage.until(lambda i=i: gate.open() == i + 1)
    return tasks


async def test_an_engine_never_has_more_than_its_capacity_and_nobody_fails(stage):
    gates = [Gate(), Gate()]
    engines = [await stage.engine(gate) for gate in gates]
    route = stage.route(*engines, policy="least_connections", capacity=3)
    await stage.open(table=stage.table({"m": route}))
    tasks = [ask(stage, str(i)) for i in range(40)]
    left = 40
    while left:
        await stage.until(lambda left=left: sum(g.open() for g in gates) == min(6, left))
        for gate in gates:
            if gate.held:
                gate.release()
                left -= 1
    replies = await asyncio.gather(*tasks)
    assert {reply.status for reply in replies} == {200}
    assert [gate.most for gate in gates] == [3, 3]
    assert stage.open_requests() == 0
    totals = stage.metrics.totals()
    assert totals.queued == 34
    assert totals.queue_microseconds > 0
    waited = [reply for reply in replies if reply.header("x-shoal-queue-time")]
    assert len(waited) == 34


@pytest.mark.parametrize("policy", ["round_robin", "weighted_round_robin", "least_connections"])
async def test_every_policy_picks_among_engines_with_room(stage, policy):
    gates = [Gate(), Gate()]
    engines = [await stage.engine(gate) for gate in gates]
    route = stage.route(*engines, policy=policy, capacity=2)
    await stage.open(table=stage.table({"m": route}))
    stage.in_flight.row(1)[0] = 2  # another worker fills the first engine
    tasks = [ask(stage, str(i)) for i in range(2)]
    await stage.until(lambda: gates[1].open() == 2)
    assert gates[0].started == []
    gates[1].release(2)
    assert [r.status for r in await asyncio.gather(*tasks)] == [200, 200]


async def test_those_that_wait_start_in_the_order_of_their_priorities(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    tasks.append(await asked(stage, "batch", "x-shoal-priority: batch\r\n"))
    tasks.append(await asked(stage, "late", body=b'{"model":"m","priority":9}'))
    tasks.append(await asked(stage, "ordinary"))
    tasks.append(await asked(stage, "urgent", "X-Shoal-Priority: -1\r\n"))
    for i in range(5):
        await stage.until(lambda i=i: len(gate.started) == i + 1)
        gate.release()
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}
    assert gate.started == ["first0", "urgent", "ordinary", "late", "batch"]


async def test_the_body_with_its_priority_and_the_header_reach_the_engine_as_they_came(stage):
    engine = await stage.engine()
    await stage.open(engine)
    body = b'{"model":"m", "priority": 3}'
    await stage.request(stage.post(body, extra="X-Shoal-Priority: 7\r\n"))
    assert (engine.seen[0].body, engine.seen[0].header(b"x-shoal-priority")) == (body, b"7")


async def test_clients_take_turns(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    for i in range(4):
        tasks.append(await asked(stage, f"a{i}", "Authorization: Bearer a\r\n"))
    tasks.append(await asked(stage, "b0", "Authorization: Bearer b\r\n"))
    for i in range(6):
        await stage.until(lambda i=i: len(gate.started) == i + 1)
        gate.release()
    await asyncio.gather(*tasks)
    assert gate.started == ["first0", "a0", "b0", "a1", "a2", "a3"]


async def test_a_client_that_leaves_frees_its_place(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_queued=1)
    client = await stage.client()
    await client.send(stage.post(extra="X-Name: gone\r\n"))
    await stage.until(lambda: waiting(stage) == 1)
    assert (await stage.request(stage.post())).status == 429
    client.close()
    await stage.until(lambda: waiting(stage) == 0)
    tasks.append(await asked(stage, "next"))
    gate.release()
    await stage.until(lambda: len(gate.started) == 2)
    gate.release()
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}
    assert gate.started == ["first0", "next"]
    totals = stage.metrics.totals()
    assert (totals.queue_departures, totals.client_disconnects, totals.queue_refusals) == (1, 1, 1)


async def test_overflow_gets_429_and_the_connection_goes_on(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_queued=2)
    tasks += [await asked(stage, str(i)) for i in range(2)]
    client = await stage.client()
    reply = await client.request(stage.post())
    assert (reply.status, reply.error["code"]) == (429, "queue_full")
    assert "busy" in reply.error["message"]
    assert reply.header("retry-after") == "5", "nothing is known yet: the table's"
    assert (await client.request(stage.get("/v1/models"))).status == 200
    for i in range(3):
        await stage.until(lambda i=i: len(gate.started) == i + 1)
        gate.release()
    await asyncio.gather(*tasks)
    assert stage.metrics.totals().requests["4xx", False] == 1


async def test_many_pipelined_requests_that_find_no_place_are_answered_one_by_one(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_queued=0)
    client = await stage.client()
    await client.send(stage.post() * 600)
    for _ in range(600):
        assert (await client.reply()).status == 429
    gate.release()
    await asyncio.gather(*tasks)


async def test_an_urgent_request_takes_the_place_of_a_batch_one_in_a_full_queue(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_queued=1)
    batch = await asked(stage, "batch", "x-shoal-priority: batch\r\n")
    ordinary = ask(stage, "ordinary")
    refused = await batch
    assert (refused.status, refused.error["code"]) == (429, "queue_full")
    gate.release()
    await stage.until(lambda: len(gate.started) == 2)
    gate.release()
    assert [r.status for r in await asyncio.gather(ordinary, *tasks)] == [200, 200]


async def test_who_waits_too_long_gets_503(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_wait=0.1)
    reply = await ask(stage, "late")
    assert (reply.status, reply.error["code"]) == (503, "queue_timeout")
    assert "0.1 s" in reply.error["message"]
    assert int(reply.header("retry-after")) >= 1
    gate.release()
    await asyncio.gather(*tasks)
    assert gate.started == ["first0"]
    assert stage.metrics.totals().queue_timeouts == 1


async def test_a_client_may_say_that_it_does_not_wait(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    reply = await ask(stage, "now", "Prefer: wait=0\r\n")
    assert reply.status == 503
    gate.release()
    await asyncio.gather(*tasks)


async def test_batch_requests_wait_beyond_max_wait(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_wait=0.1)
    batch = await asked(stage, "batch", "x-shoal-priority: batch\r\n")
    assert (await ask(stage, "late")).status == 503, "that much time has passed"
    gate.release()
    await stage.until(lambda: len(gate.started) == 2)
    gate.release()
    assert [r.status for r in await asyncio.gather(batch, *tasks)] == [200, 200]


async def test_retry_after_is_the_time_the_queue_takes(stage):
    gate = Gate()
    tasks = await filled(stage, gate, capacity=2, max_queued=30)
    tasks += [await asked(stage, str(i)) for i in range(30)]
    began = stage.gateway.now()
    for i in range(10):  # ten starts in about a second
        await stage.until(lambda i=i: stage.gateway.now() >= began + (i + 1) / 10 and gate.open() == 2)
        gate.release()
    await stage.until(lambda: waiting(stage) == 20)
    tasks += [await asked(stage, f"more{i}") for i in range(10)]
    per_second = 10 / (stage.gateway.now() - began)
    reply = await stage.request(stage.post())
    assert reply.status == 429
    assert abs(int(reply.header("retry-after")) - 30 / per_second) <= 2
    while gate.held or waiting(stage):
        await stage.until(lambda: gate.held)
        gate.release(len(gate.held))
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}


async def test_those_that_wait_move_to_an_engine_that_comes(stage):
    gate, other = Gate(), Gate()
    tasks = await filled(stage, gate)
    tasks += [await asked(stage, str(i)) for i in range(2)]
    second = await stage.engine(other)
    stage.gateway.apply(stage.table({"m": stage.route(stage.engines[0], second, capacity=1)}))
    await stage.until(lambda: other.started == ["0"])
    gate.release()
    other.release()
    await stage.until(lambda: len(gate.held) + len(other.held) == 1)
    for one in (gate, other):
        one.release(len(one.held))
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}


async def test_places_that_other_workers_free_are_noticed(stage):
    gate = Gate()
    engine = await stage.engine(gate)
    await stage.open(table=stage.table({"m": stage.route(engine, capacity=5)}))
    stage.in_flight.row(1)[0] = 5
    task = await asked(stage, "one")
    assert gate.started == []
    stage.in_flight.row(1)[0] = 4
    await stage.until(lambda: gate.held)
    gate.release()
    assert (await task).status == 200


async def test_a_worker_that_has_its_share_leaves_free_places_to_others_that_wait(stage):
    gate = Gate()
    tasks = await filled(stage, gate, capacity=4)
    tasks.append(await asked(stage, "fifth"))
    stage.metrics.waiting(1)[0] = 1  # in another worker, too
    gate.release()
    await stage.until(lambda: gate.open() == 3)
    await stage.until_still(lambda: (gate.open(), waiting(stage)))
    assert waiting(stage) == 1, "3 of 4 are more than half"
    newcomer = await asked(stage, "newcomer")
    assert len(gate.started) == 4
    gate.release()
    await stage.until(lambda: gate.open() == 2)
    await stage.until_still(lambda: (gate.open(), waiting(stage)))
    gate.release()
    await stage.until(lambda: "fifth" in gate.started)
    stage.metrics.waiting(1)[0] = 0  # it waits no more
    await stage.until(lambda: "newcomer" in gate.started)
    gate.release(len(gate.held))
    assert {r.status for r in await asyncio.gather(newcomer, *tasks)} == {200}


async def test_workers_of_other_nodes_get_their_share_too(stage):
    gate = Gate()
    tasks = await filled(stage, gate, capacity=2)
    tasks.append(await asked(stage, "third"))
    stage.metrics.set_elsewhere({0: 1})
    gate.release()
    await stage.until(lambda: gate.open() == 1)
    await stage.until_still(lambda: (gate.open(), waiting(stage)))
    assert waiting(stage) == 1
    stage.metrics.set_elsewhere({})
    await stage.until(lambda: gate.open() == 2)
    gate.release(2)
    await asyncio.gather(*tasks)


async def test_what_waits_is_told_to_other_workers_and_batch_is_not(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    tasks.append(await asked(stage, "one"))
    tasks.append(await asked(stage, "batch", "x-shoal-priority: batch\r\n"))
    assert stage.metrics.waiting_column(0).tolist() == [1, 0]
    for i in range(3):
        await stage.until(lambda i=i: len(gate.started) == i + 1)
        gate.release()
    await asyncio.gather(*tasks)
    assert stage.metrics.waiting_column(0).tolist() == [0, 0]


async def test_a_worker_that_reaches_no_engine_takes_no_share_from_others(stage):
    """It waits for an engine and not for room: half of the engines would stand idle for it."""
    gate = Gate()
    tasks = await filled(stage, gate)
    tasks += [await asked(stage, "one"), await asked(stage, "two")]
    assert stage.metrics.waiting_column(0).tolist() == [2, 0]
    (engine,) = stage.engines
    await engine.stop()
    assert (await tasks[0]).status == 502
    await stage.until(lambda: waiting(stage) == 1)
    await stage.until(lambda: stage.metrics.waiting_column(0).tolist() == [0, 0])
    await engine.start()
    while not all(task.done() for task in tasks):
        await stage.until(lambda: gate.held or all(task.done() for task in tasks))
        gate.release(len(gate.held))
    assert [task.result().status for task in tasks] == [502, 503, 200]
    assert stage.metrics.waiting_column(0).tolist() == [0, 0]


async def test_batch_leaves_room_for_others(stage):
    gate = Gate()
    engine = await stage.engine(gate)
    route = stage.route(engine, capacity=10)
    await stage.open(table=stage.table({"m": route}), batch_share=0.5)
    tasks = [ask(stage, f"batch{i}", "x-shoal-priority: batch\r\n") for i in range(8)]
    await stage.until(lambda: gate.open() == 5 and waiting(stage) == 3)
    tasks += [ask(stage, str(i)) for i in range(5)]
    await stage.until(lambda: gate.open() == 10)
    assert waiting(stage) == 3
    gate.release(5)
    await stage.until(lambda: gate.open() == 5)
    await stage.until_still(gate.open)
    gate.release(5)
    await stage.until(lambda: gate.open() == 3)
    gate.release(3)
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}
    assert gate.most == 10


async def test_requests_of_a_failed_engine_do_not_wait_and_those_that_do_are_not_sent_after_them(stage):
    first, second = Gate(), Gate()
    engines = [await stage.engine(first), await stage.engine(second)]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="least_connections", capacity=4)}))
    tasks = [ask(stage, str(i)) for i in range(8)]
    await stage.until(lambda: first.open() + second.open() == 8)
    tasks += [await asked(stage, f"waits{i}") for i in range(10)]
    moved = set(first.started)
    await engines[0].stop()
    await stage.until(lambda: moved <= set(second.started))
    await stage.until_still(lambda: waiting(stage))
    assert waiting(stage) >= 9, "one may have tried the dead engine, no more"
    while second.held or waiting(stage):
        await stage.until(lambda: second.held)
        second.release()
    replies = await asyncio.gather(*tasks)
    assert {r.status for r in replies} == {200}


async def test_those_that_wait_go_on_waiting_while_their_only_engine_is_away(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    task = await asked(stage, "one")
    stage.gateway.apply(stage.table({"m": stage.route()}))
    gate.release()
    await asyncio.gather(*tasks)
    await stage.until_still(lambda: waiting(stage))
    assert not task.done()
    assert (await stage.request(stage.post())).error["code"] == "no_engine_ready"
    stage.gateway.apply(stage.table({"m": stage.route(stage.engines[0], capacity=1)}))
    await stage.until(lambda: gate.held)
    gate.release()
    assert (await task).status == 200


async def test_who_waits_in_vain_for_an_engine_is_told_so(stage):
    gate = Gate()
    tasks = await filled(stage, gate, max_wait=0.2)
    task = await asked(stage, "one")
    stage.gateway.apply(stage.table({"m": stage.route()}))
    reply = await task
    assert (reply.status, reply.error["code"]) == (503, "no_engine_ready")
    gate.release()
    await asyncio.gather(*tasks)


async def test_a_request_for_an_adapter_that_is_gone_does_not_hold_up_the_others(stage):
    gate = Gate()
    engine = await stage.engine(gate)
    route = stage.route(engine, capacity=1)
    await stage.open(table=stage.table({"m": route, "lora": route}))
    tasks = [ask(stage, "first")]
    await stage.until(lambda: gate.open() == 1)
    tasks.append(await asked(stage, "lora", body=b'{"model":"lora"}'))
    tasks.append(await asked(stage, "other"))
    stage.gateway.apply(stage.table({"m": route}))
    for i in range(3):
        await stage.until(lambda i=i: len(gate.started) == i + 1)
        gate.release()
    assert {r.status for r in await asyncio.gather(*tasks)} == {200}
    assert gate.started == ["first", "lora", "other"]


async def test_a_changed_capacity_is_used_and_keeps_connections(stage):
    gate = Gate()
    tasks = await filled(stage, gate)
    tasks.append(await asked(stage, "second"))
    stage.gateway.apply(stage.table({"m": stage.route(stage.engines[0], capacity=2)}))
    await stage.until(lambda: gate.open() == 2)
    gate.release(2)
    await asyncio.gather(*tasks)
    stage.gateway.apply(stage.table({"m": stage.route(stage.engines[0])}))
    tasks = [ask(stage, str(i)) for i in range(20)]
    await stage.until(lambda: gate.open() == 20)
    gate.release(20)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("extra", "body"),
    [("X-Shoal-Priority: high\r\n", b'{"model":"m"}'), ("", b'{"model":"m","priority":"high"}')],
)
async def test_a_bad_priority_is_refused_with_what_to_do(stage, extra, body):
    engine = await stage.engine()
    await stage.open(engine)
    client = await stage.client()
    reply = await client.request(stage.post(body, extra=extra))
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_priority", "priority")
    assert "Lower numbers go first" in reply.error["message"]
    assert (await client.request(stage.post())).status == 200
    assert len(engine.seen) == 1


async def test_a_preflight_does_not_wait(stage):
    async def behave(connection, seen):
        if seen.line.startswith(b"OPTIONS"):
            await connection.send(HEAD)
        else:
            await gate(connection, seen)

    gate = Gate()
    engine = await stage.engine(behave)
    await stage.open(table=stage.table({"m": stage.route(engine, capacity=1)}))
    task = ask(stage, "first")
    await stage.until(lambda: gate.open() == 1)
    assert (await stage.request(stage.get("/v1/chat/completions", method="OPTIONS"))).status == 200
    gate.release()
    await task


async def test_nothing_of_it_is_left_in_the_counts(stage):
    gate = Gate()
    tasks = await filled(stage, gate, capacity=2, max_queued=5, max_wait=0.3)
    clients = [await stage.client() for _ in range(10)]
    for client in clients:
        await client.send(stage.post())
    await stage.until(lambda: stage.metrics.totals().queue_refusals == 5)
    for client in clients[:3]:
        client.reset()
    await stage.until(lambda: not waiting(stage))
    gate.release(2)
    await asyncio.gather(*tasks)
    row = stage.metrics.row(0)
    assert row[Cell.QUEUE_DEPARTURES] + row[Cell.QUEUE_TIMEOUTS] == 5
    assert stage.open_requests() == 0
    assert not any(stage.metrics.waiting(0).tolist())
