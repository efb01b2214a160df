"""What is noted of an engine that gets nothing done, and what the rules make of it, with real processes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from shoal.cluster.view import EngineState
from shoal.node.reconcile import Action, Kill, Local, Timers, Wanted, plan
from support.engines import SPEC, Node, run

pytestmark = pytest.mark.alone

STALL = 1.0
TIMERS = Timers(stall_timeout=STALL)
WANTED = {SPEC.id: Wanted(id=SPEC.id, fingerprint=SPEC.fingerprint())}
# What an engine under test may lag behind on a busy machine, seconds.
LATE = 0.5


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, stall_timeout=STALL)


@asynccontextmanager
async def client(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{node.report.port}", timeout=20, trust_env=False
    ) as http:
        yield http


@asynccontextmanager
async def stream(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    """Keep a long stream open."""
    body = {"model": "m", "prompt": "count", "max_tokens": 30_000, "stream": True, "ignore_eos": True}
    async with client(node) as http, http.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        node.in_flight = 1  # as the gateways count it
        yield http


def decide(node: Node) -> Action | None:
    return plan(WANTED, Local(now=time.monotonic(), engines=node.engines.actual()), TIMERS)


async def decision(node: Node) -> tuple[float, Action]:
    """Return when the rules had something to do, seconds from now, and what."""
    begun = time.monotonic()
    await node.until(lambda: decide(node))
    action = decide(node)
    assert action is not None
    return time.monotonic() - begun, action


def test_a_core_that_hangs_while_its_server_answers_is_found_in_time(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        async with stream(node) as http:
            await http.post("/sim/fault", json={"kind": "hang"})
            took, action = await decision(node)
            assert isinstance(action, Kill)
            assert action.hung
            assert "had 1 request and got nothing done for 1 s" in action.reason
            assert STALL - 0.2 < took < STALL + LATE
            assert (await http.get("/health")).status_code == 200

    run(test, node)


def test_a_stopped_engine_with_requests_is_found_in_time_though_a_question_hangs(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        async with stream(node):
            os.kill(node.pid(), signal.SIGSTOP)
            took, action = await decision(node)
            assert "did not answer for 1 s" in action.reason
            assert STALL - LATE < took < STALL + LATE  # it may have answered last a little before it stopped

    run(test, node)


def test_a_core_that_hung_before_its_first_request_is_found(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        async with client(node) as http:
            await http.post("/sim/fault", json={"kind": "hang"})
        node.in_flight = 1
        took, action = await decision(node)
        assert "had 1 request and got nothing done" in action.reason
        assert took < STALL + LATE

    run(test, node)


def test_answers_that_a_client_is_slow_to_take_do_not_make_an_idle_engine_hang(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        async with client(node) as http:
            seen = (await http.get("/sim/state")).json()["requests"]
            node.in_flight = 1
            end = time.monotonic() + 2.5 * STALL
            while time.monotonic() < end:
                assert decide(node) is None
                await asyncio.sleep(0.05)
            assert 1 <= (await http.get("/sim/state")).json()["requests"] - seen <= 6, (
                "asked for a token at times"
            )

    run(test, node)


def test_a_hung_engine_leaves_routing_at_once_and_its_log_says_what_it_was_at(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spy = tmp_path / "bin" / "py-spy"
    spy.parent.mkdir()
    spy.write_text('#!/bin/sh\necho "Process $4: serve --api-key secret"\necho "stacks by $*"\n')
    spy.chmod(0o755)

    async def test(node: Node) -> None:
        await node.ready()
        monkeypatch.setattr("sys.executable", str(spy.with_name("python")))
        pid = node.pid()
        os.kill(pid, signal.SIGSTOP)
        await node.until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        reason = "engine m-0 is killed: it had 1 request and got nothing done for 10 s"
        node.engines.apply(Kill(engine="m-0", reason=reason, hung=True))
        assert (node.engine.state, node.engine.ending) == (EngineState.UNHEALTHY, True)
        await node.until(lambda: node.engine.exit)
        assert node.engine.exit == "had 1 request and got nothing done for 10 s"
        log = (tmp_path / "logs" / "m-0.log").read_text()
        assert "secret" not in log
        assert f"(pid {pid}), in state T of proc(5):\nstacks by dump --nonblocking --pid {pid}" in log

    run(test, node)
