"""Policies in a gateway: prompts reach them, requests name them, and one that raises fails nobody."""

from __future__ import annotations

import asyncio
import json
import os
import random

import msgspec
import pytest

from shoal.gateway import affinity
from shoal.gateway.affinity import Affinity
from shoal.gateway.context import Gateway
from shoal.gateway.messages import TableUpdate
from shoal.gateway.request import Request
from shoal.routing.prefix_table import column
from shoal.routing.round_robin import RoundRobin


def chat(seed: object, *more: str, size: int = 3000) -> bytes:
    """Return the body of a conversation's turn."""
    texts = [random.Random(str(seed)).randbytes(size // 2).hex(), *more]
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "m", "messages": messages}).encode()


async def open_with(stage, policy: str, count: int = 3, **settings):
    engines = [await stage.engine() for _ in range(count)]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy=policy)}), **settings)
    return engines


def busy(engine) -> int:
    return len(engine.seen)


async def test_turns_of_a_conversation_go_to_the_same_engine(stage):
    engines = await open_with(stage, "prefix_affinity")
    for conversation in range(12):
        before = [busy(engine) for engine in engines]
        for turn in range(4):
            assert (await stage.request(stage.post(chat(conversation, *["next turn"] * turn)))).status == 200
        assert sorted(busy(engine) - old for engine, old in zip(engines, before, strict=True)) == [0, 0, 4]
    assert all(busy(engine) for engine in engines)
    assert [stage.gateway._affinity.local(slot) for slot in range(3)] == [0, 0, 0], "no work is left behind"


async def test_a_prompt_counts_as_work_until_its_first_event(stage):
    go_on = asyncio.Event()

    async def behave(connection, _):
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await go_on.wait()
        go_on.clear()
        await connection.send(b'd\r\ndata: {"a":1}\r\n2\r\n\n\n\r\n')
        await go_on.wait()
        await connection.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    engines = [await stage.engine(behave) for _ in range(2)]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="prefix_affinity")}))
    map_ = stage.gateway._affinity
    body = chat("x").replace(b'"model"', b'"stream": true, "model"')
    client = await stage.client()
    await client.send(stage.post(body, extra="X: y\r\n"))
    await stage.until(lambda: sum(map(busy, engines)) == 1)
    (slot,) = (n for n, engine in enumerate(engines) if engine.seen)
    assert map_.local(slot) == pytest.approx(3000, abs=100)
    assert map_.local(1 - slot) == 0
    go_on.set()
    await stage.until(lambda: map_.local(slot) == 0)
    assert stage.in_flight.load(slot) == 1, "it still runs"
    go_on.set()
    assert (await client.reply("POST")).complete
    assert (map_.local(slot), stage.in_flight.load(slot)) == (0, 0)


@pytest.mark.parametrize("behave", [None, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"])
async def test_work_is_released_when_engines_fail_or_clients_leave(stage, behave):
    engines = [
        await (stage.engine(stage.answer_then_close(behave)) if behave else stage.dead_engine())
        for _ in range(2)
    ]
    await stage.open(table=stage.table({"m": stage.route(*engines, policy="prefix_affinity")}))
    reply = await stage.request(stage.post(chat("x")))
    assert reply.status in (200, 502, 503)
    assert [stage.gateway._affinity.local(slot) for slot in range(2)] == [0, 0]
    assert [stage.in_flight.load(slot) for slot in range(2)] == [0, 0]


async def test_the_session_policy_reads_its_header_user_and_key(stage):
    engines = await open_with(stage, "session", session_header="X-Conversation")
    for extra, body in (
        ("x-conversation: abc\r\n", b'{"model":"m"}'),
        ("", b'{"model":"m","user":"u-7"}'),
        ("Authorization: Bearer key-1\r\n", b'{"model":"m"}'),
    ):
        before = [busy(engine) for engine in engines]
        for _ in range(4):
            await stage.request(stage.post(body, extra=extra))
        assert sorted(busy(engine) - old for engine, old in zip(engines, before, strict=True)) == [0, 0, 4]


async def test_a_request_may_name_its_policy_where_that_is_allowed(stage):
    engines = await open_with(stage, "least_connections", allow_override=True)
    stage.in_flight.set_remote({0: 9, 1: 9})
    for _ in range(3):
        await stage.request(stage.post())
    assert [busy(engine) for engine in engines] == [0, 0, 3]
    for _ in range(3):
        reply = await stage.request(stage.post(extra="X-Shoal-Policy: round_robin\r\n"))
        assert reply.status == 200
    assert [busy(engine) for engine in engines] == [1, 1, 4]
    reply = await stage.request(stage.post(extra="X-Shoal-Policy: astrology\r\n"))
    assert (reply.status, reply.error["code"], reply.error["param"]) == (
        400,
        "unknown_policy",
        "x-shoal-policy",
    )
    assert "astrology" in reply.error["message"]
    assert "round_robin" in reply.error["message"]


async def test_where_it_is_not_allowed_the_header_is_passed_over(stage):
    engines = await open_with(stage, "least_connections")
    stage.in_flight.set_remote({0: 9, 1: 9})
    for name in ("round_robin", "astrology"):
        assert (await stage.request(stage.post(extra=f"X-Shoal-Policy: {name}\r\n"))).status == 200
    assert [busy(engine) for engine in engines] == [0, 0, 2]


@pytest.mark.parametrize("pick", [lambda *_: 1 / 0, lambda *_: 99, lambda *_: None, lambda: 0])
async def test_a_policy_that_raises_fails_no_request_and_is_told_once(stage, monkeypatch, pick):
    monkeypatch.setattr(RoundRobin, "pick", lambda self, *given: pick(*given))
    engines = await open_with(stage, "round_robin")
    stage.in_flight.set_remote({0: 9, 1: 9})
    for _ in range(5):
        assert (await stage.request(stage.post())).status == 200
    assert [busy(engine) for engine in engines] == [0, 0, 5], "least_connections picks"
    (notice,) = stage.faults
    assert notice.text.startswith("model m: the routing policy RoundRobin failed (")
    assert notice.level == "warning"


async def test_several_workers_and_what_other_nodes_tell_share_one_table(stage):
    engines = await open_with(stage, "prefix_affinity", workers=2)
    fd = affinity.create(2, 1 << 20)
    map_ = Affinity(fd, 2)
    table = stage.gateway.table
    workers = [
        Gateway(
            msgspec.structs.replace(stage.settings, index=index, share_prefixes=True),
            stage.in_flight,
            stage.metrics,
            lambda _: None,
            affinity=map_,
        )
        for index in range(2)
    ]
    os.close(fd)
    listen = map_.listener()
    for worker in workers:
        worker.apply(table)

    def choose(index: int, body: bytes) -> str:
        request = Request(b"POST", b"/v1/chat/completions", b"", 0, False, False, True, False, False, body)
        request.fields = workers[index].fields_of(body)
        return workers[index].routes["m"].choose((), workers[index], request).target.id

    homes = [choose(n % 2, chat(n)) for n in range(20)]
    assert set(homes) == {f"n{n}/m" for n in range(3)}
    assert [choose((n + 1) % 2, chat(n, "and more")) for n in range(20)] == homes
    told = list(listen())
    assert len(told) >= 20
    assert {f"n{slot}/m" for slot, _ in told} == set(homes)
    # What another node says of an engine is used as if it had been learned here.
    request = Request(b"POST", b"/", b"", 0, False, False, True, False, False, chat("told"))
    request.fields = workers[0].fields_of(request.body)
    map_.table.put(request.prompt().hashes, column(2), 1)
    assert choose(0, chat("told", "and more")) == choose(1, chat("told", "and more")) == "n2/m"
    for worker in workers:
        worker.apply(stage.table({}))
    assert len(engines) == 3


async def test_unique_prompts_do_not_make_a_worker_grow(stage, worker):
    """Its table of blocks has 1 MiB here, which 750 prompts fill. A million blocks: routing/test_prefix_table.py."""
    engines = [await stage.engine() for _ in range(2)]
    await worker.start(*engines)
    worker.channel.send(TableUpdate(stage.table({"m": stage.route(*engines, policy="prefix_affinity")})))
    client = await stage.client()
    await stage.until_still(worker.memory)

    async def ask(numbers: range) -> int:
        for number in numbers:
            reply = await client.request(stage.post(chat(number, size=30_000)))
            assert reply.status == 200
        for engine in engines:
            engine.seen.clear()
        return worker.memory()

    full = await ask(range(800))
    assert await ask(range(800, 2400)) - full < 2 * 1024 * 1024
