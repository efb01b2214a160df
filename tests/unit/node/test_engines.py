"""The executor of the rules' actions, with the simulated engine as a real process."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from shoal.cluster.view import EngineState
from shoal.engine.spec import EngineSpec
from shoal.node.reconcile import Forget, Kill, Retry, Start, Stop
from support.engines import SPEC, Node, run


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_an_engine_starts_gets_ready_and_reports_what_it_serves(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        assert node.engine.state is EngineState.READY
        assert (node.report.served, node.report.host, node.report.restarts) == (("m",), "127.0.0.1", 0)
        assert node.report.port > 0
        assert node.report.max_model_len

    run(test, node)


def test_what_is_no_longer_wanted_while_it_is_being_started_is_stopped_when_it_has_a_process(node: Node):
    async def test(node: Node) -> None:
        node.engines.apply(Start(engine="m-0", reason="engine m-0 starts"))
        node.engines.want({})
        stop = Stop(engine="m-0", reason="engine m-0 stops: it is no longer wanted")
        node.engines.apply(stop)
        assert node.engine.state is EngineState.STOPPING
        await node.until(lambda: node.engine.state is EngineState.STARTING)
        node.engines.apply(stop)
        await node.until(lambda: node.engine.state is EngineState.STOPPED)
        assert (node.engine.running, node.engine.exit) == (False, None)

    run(test, node)


def test_a_death_is_noted_cleaned_up_and_followed_by_a_restart(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        os.kill(node.pid(), signal.SIGKILL)
        await node.until(lambda: node.engine.exit)
        assert node.engine.exit == "was killed by SIGKILL"
        assert not node.engine.running
        node.engines.apply(Retry(engine="m-0", reason="engine m-0 restarts in 0 s: x", at=0.0, failures=1))
        assert (node.engine.state, node.engine.exit, node.engine.failures) == (EngineState.WAITING, None, 1)
        await node.ready()
        assert node.report.restarts == 1

    run(test, node)


def test_a_stop_is_nobodys_failure(node: Node):
    async def test(node: Node) -> None:
        await node.ready()
        pid = node.pid()
        node.engines.apply(Stop(engine="m-0", reason="engine m-0 stops: it is no longer wanted"))
        assert node.engine.state is EngineState.DRAINING, "at once, so that the rules say it once"
        await node.until(lambda: node.engine.state is EngineState.STOPPED)
        assert (node.engine.exit, node.engine.running) == (None, False)
        assert not psutil.pid_exists(pid)
        node.engines.apply(Forget(engine="m-0", reason="engine m-0 is gone: it is no longer wanted"))
        assert node.engines.actual() == {}

    run(test, node)


def test_a_killed_engine_exits_with_the_reason_it_was_killed_for(node: Node):
    async def test(node: Node) -> None:
        node.engines.apply(Start(engine="m-0", reason="engine m-0 starts"))
        await node.until(lambda: node.report.port)
        reason = "engine m-0 is killed: it was not ready within 1 s"
        node.engines.apply(Kill(engine="m-0", reason=reason))
        assert node.engine.state is EngineState.STOPPING, "at once, so that the rules say it once"
        await node.until(lambda: node.engine.exit)
        assert node.engine.exit == "was not ready within 1 s"

    run(test, node)


def test_what_cannot_be_started_has_failed(tmp_path: Path):
    missing = EngineSpec(
        id="m-0", model="m", kind="vllm", model_path="m", served_name="m", gpus=(), python="/no/such/python"
    )

    async def test(node: Node) -> None:
        node.engines.apply(Start(engine="m-0", reason="engine m-0 starts"))
        await node.until(lambda: node.engine.exit)
        assert "could not be started" in (node.engine.exit or "")
        assert "/no/such/python" in (node.engine.exit or "")

    run(test, Node(tmp_path, missing))


def test_the_next_node_process_adopts_what_the_last_one_left(tmp_path: Path):
    async def test(first: Node) -> None:
        await first.ready()
        pid = first.pid()
        second = Node(tmp_path)
        await second.engines.adopt()
        assert second.engine.ready, "it was asked before anybody is told"
        assert second.engine.fingerprint == SPEC.fingerprint()
        assert second.pid() == pid
        assert any("is adopted" in e.text for e in second.events.last())
        await second.engines.kill_all()

    run(test, Node(tmp_path))


def test_a_record_of_a_process_that_is_gone_is_told_and_cleared(tmp_path: Path):
    async def test(first: Node) -> None:
        await first.ready()
        record = next((tmp_path / "engines").glob("*.json"))
        left = record.read_bytes()
        await first.engines.kill_all()
        await first.until(lambda: not record.exists())
        record.write_bytes(left)
        second = Node(tmp_path)
        await second.engines.adopt()
        assert second.engines.actual() == {}
        assert any("is not adopted: its process" in e.text for e in second.events.last())
        assert not record.exists()

    run(test, Node(tmp_path))
