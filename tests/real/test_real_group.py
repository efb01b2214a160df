"""One model over two nodes with real vLLM: the same answers, and whole again whatever part of it is lost.

Tensor parallel, with eager execution. On CPUs vLLM's pipeline parallelism needs minutes of compilation, and is tried
once in a test marked `rare`. With SHOAL_TEST_TRIALS=5 and -s each fault strikes five times, and medians are printed.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from benchmarks.chaos import tiny_model

from shoal.engine import shm
from support.cluster import Cluster
from support.processes import runs
from support.wait import wait_until

MODEL = "tiny"
READY = 400.0  # seconds: two processes load vLLM at the same time on two cores
DETECTED, LATE = 3.0, 2.0  # what is promised, and what a busy machine may add to it
HEALTHY = 2.0  # seconds after which a failure that follows is a first one
TRIALS = int(os.environ.get("SHOAL_TEST_TRIALS", "1"))  # of each fault
ARGS = {"max_model_len": 512, "dtype": "float32", "enforce_eager": True, "max_num_seqs": 4}
PROMPTS = ("Why do fish swim?", "1 2 3 4", "once upon a time there was")


@pytest.fixture(scope="module")
def tiny(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of two layers with random weights. Asks for the demo's model only to know that vLLM is there."""
    path = tmp_path_factory.mktemp("models") / MODEL
    path.mkdir()
    tiny_model.write(path)
    return path


def model(tiny: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(tiny), "args": ARGS, "env": {"VLLM_CPU_KVCACHE_SPACE": 1}} | more


@pytest.fixture(scope="module")
def group(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return two nodes that serve the model as one engine, shared by the tests below."""
    across = model(tiny, type="xlarge", tensor_parallel=2)
    # Failures are soon forgotten: each one here is to be the first, without the longer pauses of those that follow.
    recovery = {"restart_delay": 0.2, "drain_timeout": 5, "healthy_after": HEALTHY}
    nodes = Cluster(tmp_path_factory.mktemp("group"), nodes=2, model=across, recovery=recovery)
    try:
        for index in (0, 1):
            nodes.start_node(index)
        nodes.wait_ready(1, deadline=READY)
        yield nodes
    finally:
        nodes.close()


def texts(cluster: Cluster, index: int) -> list[str]:
    """Return the greedy answers of a node's gateway."""
    found = []
    for prompt in PROMPTS:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        reply = cluster.http.post(cluster.url(index, "/v1/completions"), json=body)
        assert reply.status_code == 200, reply.text
        found.append(reply.json()["choices"][0]["text"])
    return found


def seat(cluster: Cluster, index: int) -> dict[str, Any]:
    seats = cluster.member(index, index).get("seats", [])
    return seats[0] if seats else {}


def processes(cluster: Cluster) -> list[psutil.Process]:
    """Return all processes of the engine on both nodes."""
    pids = [i.pid for n in (0, 1) for r in cluster.engine_records(n) for i in r.members]
    return [p for p in map(psutil.Process, filter(psutil.pid_exists, pids)) if runs(p)]


def segments(cluster: Cluster) -> set[str]:
    return {s.name for n in (0, 1) for r in cluster.engine_records(n) for s in r.segments}


def main(cluster: Cluster, index: int) -> psutil.Process:
    (process,) = cluster.engine_processes(index)
    return process


def worker(cluster: Cluster, index: int) -> psutil.Process:
    found = [p for p in main(cluster, index).children(recursive=True) if "Worker" in " ".join(p.cmdline())]
    assert found, [p.cmdline() for p in main(cluster, index).children(recursive=True)]
    return found[0]


def loses(cluster: Cluster, lose: Callable[[], None]) -> dict[str, float]:
    """Lose something of the engine; see that it ends everywhere, leaves nothing behind and serves again.

    Returns:
        Seconds until both nodes knew, until all processes were gone, and until it was whole again.
    """
    old, memory, number = processes(cluster), segments(cluster), seat(cluster, 0)["generation"]
    begun = time.monotonic()
    lose()

    def over(index: int) -> bool:
        told = seat(cluster, index)
        return told.get("generation") != number or told.get("state") not in ("joined", "running")

    wait_until(lambda: over(0) and over(1), DETECTED + LATE, "both nodes know that it is over")
    detected = time.monotonic() - begun
    wait_until(lambda: not any(map(runs, old)), 15, f"all processes are gone: {old}")
    gone = time.monotonic() - begun
    wait_until(lambda: not memory & {s.name for s in shm.segments()}, 10, f"shared memory is gone: {memory}")
    wait_until(lambda: seat(cluster, 0)["generation"] > number, 30, "the next generation")
    cluster.wait_ready(1, deadline=READY)
    whole = time.monotonic() - begun
    assert texts(cluster, 0)
    time.sleep(HEALTHY + 1)
    return {"detected": detected, "gone": gone, "whole": whole}


def test_greedy_answers_of_a_group_are_those_of_one_process(group: Cluster, tiny: Path, tmp_path: Path):
    across = texts(group, 0)
    assert texts(group, 1) == across
    one = Cluster(tmp_path, nodes=1, model=model(tiny))
    try:
        one.start_node(0)
        one.wait_ready(1, deadline=READY)
        assert texts(one, 0) == across
    finally:
        one.close()


FAULTS: dict[str, Callable[[Cluster], None]] = {
    "follower killed": lambda group: main(group, 1).kill(),
    "leader killed": lambda group: main(group, 0).kill(),
    "follower's worker killed": lambda group: worker(group, 1).kill(),
    "leader's worker killed": lambda group: worker(group, 0).kill(),
    "follower stopped": lambda group: main(group, 1).send_signal(signal.SIGSTOP),
    "follower's worker stopped": lambda group: worker(group, 1).send_signal(signal.SIGSTOP),
}
# For every change the one that ends most; with the simulated engine all are in tests/scenarios/test_groups.py.
OFTEN = {"leader killed"}


@pytest.mark.timeout(600 * TRIALS)
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.rare]) for name in FAULTS]
)
def test_a_group_that_lost_a_part_is_whole_again(group: Cluster, fault: str):
    trials = [loses(group, lambda: FAULTS[fault](group)) for _ in range(TRIALS)]
    for what in trials[0]:
        times = [trial[what] for trial in trials]
        print(f"{fault}: {what} {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


def test_a_group_outlives_its_node_processes(group: Cluster):
    old = {p.pid for p in processes(group)}
    for index in (1, 0):
        group.kill_node(index)
        group.start_node(index)
        group.wait_ready(1, deadline=60)
        wait_until(lambda i=index: seat(group, i).get("state") == "running", 30, "it is part of it again")
    assert {p.pid for p in processes(group)} >= old
    assert texts(group, 1)


def test_a_group_that_is_stopped_leaves_nothing_behind(group: Cluster):
    old, memory = processes(group), segments(group)
    for index in (1, 0):
        assert group.stop_node(index, deadline=60) == 0
    assert not any(map(runs, old))
    assert not memory & {s.name for s in shm.segments()}


@pytest.mark.rare
@pytest.mark.timeout(1800)
def test_a_pipeline_of_two_nodes_answers_as_one_process_and_is_whole_again(tiny: Path, tmp_path: Path):
    """Not eager: vLLM's CPU runner asserts then, when it gets tensors of the stage before."""
    compiled = ARGS | {"enforce_eager": False}
    answers = []
    for nodes, more in ((1, {}), (2, {"type": "xlarge", "pipeline_parallel": 2})):
        directory = tmp_path / str(nodes)
        directory.mkdir()
        cluster = Cluster(directory, nodes=nodes, model=model(tiny, **more) | {"args": compiled})
        try:
            for index in range(nodes):
                cluster.start_node(index)
            cluster.wait_ready(1, deadline=600)
            answers += [texts(cluster, index) for index in range(nodes)]
            if nodes == 2:
                loses(cluster, main(cluster, 1).kill)
                assert texts(cluster, 1) == answers[0]
        finally:
            cluster.close()
    assert answers == [answers[0]] * 3
