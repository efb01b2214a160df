"""Engines that real Ray distributes, with the simulated engine in vLLM's place: vLLM 0.32 refuses Ray on CPUs.

Several Ray nodes on one machine. Ray replaces loopback addresses by that of the machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shoal.engine import ray_member, shm
from shoal.engine.ray_member import LOST, PREFIX
from support import sim
from support.cluster import Cluster
from support.ports import free_ports
from support.processes import runs
from support.wait import wait_until

START = 240.0  # seconds that a Ray cluster may take on a busy machine
DETECTED = 4.5  # seconds, as in tests/scenarios/test_groups.py
MODEL = {"path": "sim-model", "engine": "sim", "type": "xlarge", "executor": "ray"}


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Skip without Ray; return where it is to put its files, and see that nothing of it is left there."""
    if importlib.util.find_spec("ray") is None:
        if os.environ.get("SHOAL_TEST_REAL") == "required":
            pytest.fail("Ray is not installed, and SHOAL_TEST_REAL=required")
        pytest.skip("Ray is not installed: pip install 'shoal[ray]'")
    # Short, for the paths of sockets. What other tests of this machine leave is none of ours.
    directory = Path(f"/tmp/r{secrets.token_hex(3)}")
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    left = list(directory.glob(f"{PREFIX}*"))
    subprocess.run(["rm", "-rf", str(directory)], check=True)
    assert left == []


class RayGroup:
    """The two members of a group, as Shoal starts them; the first runs a simulated engine."""

    def __init__(self, stack: contextlib.ExitStack, token: str = "a" * 64) -> None:
        self.head, self.http = free_ports(2)
        self.token = token
        self._stack = stack
        engine = [sys.executable, "-m", "shoal.sim", "--host", "127.0.0.1", "--port", str(self.http)]
        engine += ["--tensor-parallel-size", "2", "--distributed-executor-backend", "ray", "--model", "m"]
        self.members = [self.start(0, token, "--", *engine), self.start(1, token)]
        self.client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.http}", timeout=30, trust_env=False)
        )

    def start(self, rank: int, token: str, *more: str) -> subprocess.Popen[str]:
        words = [sys.executable, ray_member.__file__, "--rank", str(rank), "--nodes", "2"]
        words += ["--head", f"127.0.0.1:{self.head}", "--address", "127.0.0.1", *more]
        process = subprocess.Popen(words, env=os.environ | {"RAY_AUTH_TOKEN": token}, start_new_session=True)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def state(self) -> dict[str, Any]:
        try:
            return dict(self.client.get("/sim/state").json())
        except (httpx.HTTPError, json.JSONDecodeError):
            assert all(member.poll() is None for member in self.members)
            return {}

    def tree(self, rank: int) -> list[psutil.Process]:
        return psutil.Process(self.members[rank].pid).children(recursive=True)

    def process(self, rank: int, name: str) -> psutil.Process:
        """Return the process of a member whose command line has `name` in it."""
        return next(p for p in self.tree(rank) if name in " ".join(p.cmdline()))


@pytest.fixture
def group() -> Iterator[RayGroup]:
    with contextlib.ExitStack() as stack:
        formed = RayGroup(stack)
        wait_until(formed.state, START, "the group answers", every=0.2)
        yield formed


def test_a_group_answers_as_a_single_engine_and_leaves_nothing(group: RayGroup, ray: Path) -> None:
    followers = group.state()["group"]["followers"]
    worker = psutil.Process(followers[0]["pid"])
    assert worker in group.tree(1)
    body = {"model": "m", "prompt": "what a group says", "max_tokens": 40}
    ours = group.client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    single = sim.start("--model", "m")
    try:
        assert ours == single.complete(**body)["choices"][0]["text"]
    finally:
        single.stop()
    everything = [*group.tree(0), *group.tree(1)]
    segments = shm.used_by(p.pid for p in everything)
    assert len(list(ray.glob(f"{PREFIX}*"))) == 2
    for member in reversed(group.members):
        member.terminate()
        assert member.wait(60) == 0
    assert not any(map(runs, everything))
    assert not segments & set(shm.segments())
    assert list(ray.glob(f"{PREFIX}*")) == []


def test_a_lost_ray_node_ends_its_member_at_once_and_the_engine_when_it_has_work(group: RayGroup) -> None:
    leaders, others = group.tree(0), group.tree(1)
    group.process(1, "raylet/raylet").kill()
    assert group.members[1].wait(30) == LOST
    assert not any(map(runs, others))
    with contextlib.suppress(httpx.HTTPError):
        group.client.post("/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 5})
    assert group.members[0].wait(30) == 0  # vLLM's own exit status
    assert not any(map(runs, leaders))


@pytest.mark.rare  # a Ray cluster more
def test_a_lost_head_ends_the_engine_with_it(group: RayGroup) -> None:
    leaders = group.tree(0)
    group.process(0, "gcs_server").kill()
    assert group.members[0].wait(30) == LOST
    assert not any(map(runs, leaders))
    assert group.members[1].wait(90) == LOST  # by itself; Shoal is quicker


@pytest.mark.rare  # two Ray clusters more
def test_two_groups_of_one_machine_do_not_see_each_other_and_ask_for_a_token() -> None:
    with contextlib.ExitStack() as stack:
        groups = [RayGroup(stack, token=letter * 64) for letter in "ab"]
        for one in groups:
            wait_until(one.state, START, "the group answers", every=0.2)
            assert one.state()["group"]["nnodes"] == 2
        assert [ray_nodes(groups[0], token * 64) for token in "ab"] == ["2", ""]


def ray_nodes(group: RayGroup, token: str) -> str:
    """Ask the group's Ray how many nodes it has, with some token."""
    ask = "import ray, os; ray.init(address=os.environ['RAY_ADDRESS'], logging_level='ERROR'); print(len(ray.nodes()))"
    address = {"RAY_ADDRESS": f"127.0.0.1:{group.head}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    run = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run.stdout.strip()


def test_a_killed_part_is_whole_again_on_the_same_nodes_and_nothing_is_left(
    tmp_path: Path, ray: Path
) -> None:
    """Shoal's own way: two nodes, one engine, and a Ray process killed."""
    secret = secrets.token_hex(16)
    cluster = Cluster(tmp_path, 2, model=MODEL, cluster={"secret": secret})
    try:
        for index in (0, 1):
            cluster.start_node(index)
        wait_until(lambda: cluster.ready_engines(1), START, "the engine is ready", every=0.2)
        assert cluster.chat(1).status_code == 200
        mains = [cluster.engine_processes(i)[0] for i in (0, 1)]
        old = [p for main in mains for p in (main, *main.children(recursive=True))]
        segments = shm.used_by(p.pid for p in old)
        directories = set(ray.glob(f"{PREFIX}*"))
        next(p for p in mains[1].children(recursive=True) if "raylet/raylet" in " ".join(p.cmdline())).kill()
        begun = time.monotonic()
        wait_until(lambda: not runs(mains[0]), DETECTED, "the leader's part is ended")
        assert time.monotonic() - begun < DETECTED
        wait_until(lambda: not any(map(runs, old)), 20, "all processes are gone")
        wait_until(
            lambda: len(cluster.events(0)) and cluster.ready_engines(1), START, "it is ready", every=0.2
        )
        wait_until(lambda: cluster.chat(1).status_code == 200, START, "it answers again", every=0.2)
        assert not segments & set(shm.segments())
        assert not directories & set(ray.glob(f"{PREFIX}*"))
        for index in (1, 0):
            assert cluster.stop_node(index, deadline=60) == 0
    finally:
        cluster.close()
