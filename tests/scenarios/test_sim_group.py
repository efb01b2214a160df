"""The simulated engine as a group of real processes: what vLLM's groups do when one of them is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shoal.engine import shm
from support import sim, sim_group
from support.ports import free_ports
from support.processes import runs
from support.sim_group import SimGroup
from support.wait import wait_until

LONG = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True}
QUICK_TIMEOUT = {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "1"}


class Asker(threading.Thread):
    """A request that runs meanwhile."""

    def __init__(self, group: SimGroup) -> None:
        super().__init__()
        self.answer: httpx.Response | None = None
        self._client = group.leader.another(30)
        self.start()
        group.leader.wait(lambda state: state["running"] and state["generation_tokens"] > 3)

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError), self._client as client:
            self.answer = client.post("/v1/completions", json=LONG)


def test_a_group_answers_as_a_single_engine() -> None:
    single = sim.start("--salt", "x")
    try:
        with sim_group.group("--salt", "x", nnodes=3) as group:
            body = {"prompt": "what a group says", "max_tokens": 40}
            ours, theirs = (one.complete(**body)["choices"][0]["text"] for one in (group.leader, single))
            assert ours == theirs
    finally:
        single.stop()


def test_a_stopped_follower_stops_the_group_and_health_does_not_know() -> None:
    with sim_group.group() as group:
        asker = Asker(group)
        follower = group.followers[0]
        follower.send_signal(signal.SIGSTOP)
        lagging = group.leader.wait(lambda state: _lag(state) == 1)
        for _ in range(20):  # still at the same step after as many answers
            assert group.leader.http.get("/health").status_code == 200
            assert group.leader.state()["generation_tokens"] == lagging["generation_tokens"]
        follower.send_signal(signal.SIGCONT)
        group.leader.wait(lambda state: state["generation_tokens"] > lagging["generation_tokens"])
        group.leader.fault(kind="core")  # enough of it
        asker.join()


def test_a_lost_follower_hangs_all_requests_until_the_leader_gives_up_with_status_0() -> None:
    with sim_group.group(env=QUICK_TIMEOUT) as group:
        asker = Asker(group)
        group.followers[0].kill()
        assert group.followers[0].wait() == -signal.SIGKILL
        group.leader.wait(lambda state: not state["group"]["followers"][0]["connected"])
        assert group.leader.http.get("/health").status_code == 200
        assert asker.answer is None
        assert group.leader.process.wait(sim.DEADLINE) == 0
        asker.join()
        assert asker.answer is not None
        assert asker.answer.status_code == 500
        assert "EngineCore encountered an issue" in asker.answer.text


def test_an_idle_group_does_not_notice_that_a_follower_is_lost() -> None:
    with sim_group.group(env={"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "0.2"}) as group:
        group.followers[0].kill()
        group.leader.wait(lambda state: not state["group"]["followers"][0]["connected"])
        assert group.leader.state()["uptime"] > 0
        assert group.leader.http.get("/health").status_code == 200
        with group.leader.another() as client:
            assert client.post("/v1/completions", json=LONG).status_code == 500
        assert group.leader.process.wait(sim.DEADLINE) == 0


def test_with_gloo_a_lost_follower_fails_what_runs_at_once() -> None:
    with sim_group.group("--lost-follower", "fail") as group:
        asker = Asker(group)
        group.followers[0].kill()
        assert group.leader.process.wait(sim.DEADLINE) == 0
        asker.join()
        assert asker.answer is not None
        assert asker.answer.status_code == 500


def test_a_dead_worker_of_a_follower_ends_the_leader_too() -> None:
    with sim_group.group("--spawn-children", "1") as group:
        follower = psutil.Process(group.followers[0].pid)
        (worker,) = follower.children()
        assert worker.name() == "SIM::Worker_TP1"
        segments = shm.used_by([worker.pid])
        worker.kill()
        assert group.followers[0].wait(sim.DEADLINE) == 0
        assert group.leader.process.wait(sim.DEADLINE) == 0
        shm.remove_unused(segments)


def test_followers_of_a_dead_leader_run_on_with_their_memory() -> None:
    with sim_group.group("--spawn-children", "1") as group:
        follower = psutil.Process(group.followers[0].pid)
        (worker,) = follower.children()
        leaders = group.leader.state()
        assert shm.used_by([worker.pid])
        group.leader.process.kill()
        group.leader.process.wait()
        wait_until(lambda: all(c.status != "ESTABLISHED" for c in follower.net_connections()))
        assert runs(follower)
        assert runs(worker)
        follower.terminate()
        assert group.followers[0].wait(sim.DEADLINE) == 0
        wait_until(lambda: not runs(worker))
        os.kill(leaders["children"][0], signal.SIGTERM)
        wait_until(lambda: not Path(leaders["segment"]).exists())


def test_followers_can_be_told_to_go_with_their_leader() -> None:
    with sim_group.group("--no-follower-outlives-leader") as group:
        group.leader.process.kill()
        assert group.followers[0].wait(sim.DEADLINE) == 0


def test_the_leader_does_not_answer_before_all_have_come_and_both_give_up_in_the_end() -> None:
    port, http = free_ports(2)
    words = [sys.executable, "-m", "shoal.sim", "--host", "127.0.0.1", "--port", str(http)]
    words += [*sim_group.command(0, 2, port), "--distributed-timeout-seconds", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        assert f"tcp://127.0.0.1:{port}" in leader.stdout.readline()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{http}/health", trust_env=False)
        assert "1/2 clients joined" in leader.communicate(timeout=sim.DEADLINE)[1]
        assert leader.returncode == 1
    follower = sim_group.follow(1, 2, port, "--distributed-timeout-seconds", "0.2")
    assert follower.wait(sim.DEADLINE) == 1


def test_a_master_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [sys.executable, "-m", "shoal.sim", "--port", "0", *sim_group.command(0, 2, port)]
        run = subprocess.run(words, capture_output=True, text=True, timeout=sim.DEADLINE, check=False)
    assert run.returncode == 1
    assert run.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def _lag(state: dict[str, Any]) -> int:
    group = state["group"]
    return int(group["steps"]) - int(group["followers"][0]["done"])
