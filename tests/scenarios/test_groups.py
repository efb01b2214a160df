"""Engines that span nodes: real nodes, a simulated engine in two parts, and what becomes of it when one is lost."""

import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from support.cluster import Cluster
from support.load import Load
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]
MODEL: dict[str, Any] = {"path": "sim-model", "engine": "sim", "type": "xlarge"}
# What the design promises, and what a busy machine may add to it. Seconds.
DETECTED, LATE = 3.0, 1.5


def seats(cluster: Cluster, index: int, seen_by: int = 0) -> dict[str, Any]:
    found = cluster.member(seen_by, index).get("seats", [])
    return found[0] if found else {}


def generation(cluster: Cluster, index: int = 0, seen_by: int = 0) -> int:
    """Return the generation that a node runs a part of, 0 for none."""
    seat = seats(cluster, index, seen_by)
    return seat.get("generation", 0) if seat.get("state") == "running" else 0


def part(cluster: Cluster, index: int) -> psutil.Process:
    (process,) = cluster.engine_processes(index)
    return process


def formed(cluster: Cluster, engines: int = 1) -> Cluster:
    for index in range(len(cluster.ports)):
        cluster.start_node(index)
    cluster.wait_ready(engines)
    return cluster


@pytest.fixture
def group(make_cluster: Make) -> Cluster:
    """Return two nodes that serve one model as one engine."""
    return formed(make_cluster(2, model=MODEL))


def whole_again(cluster: Cluster, old: list[psutil.Process], after: int = 1) -> None:
    """Wait until the next generation serves, and see that nothing is left of the former one."""
    wait_until(lambda: generation(cluster, 0) > after and generation(cluster, 1) > after, 20, "the next one")
    cluster.wait_ready(1)
    assert not any(map(runs, old))
    assert cluster.chat(0).status_code == cluster.chat(1).status_code == 200


def test_two_nodes_serve_a_model_as_one_engine_at_its_leaders_address(group: Cluster):
    leader = f"{group.names[0]}/sim-model-0"
    assert group.ready_engines(0) == group.ready_engines(1) == [leader]
    for index in (0, 1):
        assert group.chat(index).headers["x-shoal-engine"] == leader
    assert [seats(group, i)["generation"] for i in (0, 1)] == [1, 1]
    assert seats(group, 0)["offer"]["members"] == group.names
    words = part(group, 1).cmdline()
    assert words[words.index("--nnodes") :][:4] == ["--nnodes", "2", "--node-rank", "1"]
    assert "--headless" in words
    assert "--headless" not in part(group, 0).cmdline()


@pytest.mark.parametrize("lost", [1, 0], ids=["the follower", "the leader"])
def test_a_part_that_is_killed_ends_the_engine_everywhere_and_it_is_whole_again(group: Cluster, lost: int):
    old = [part(group, i) for i in (0, 1)]
    old[lost].kill()
    other = 1 - lost
    begun = time.monotonic()
    wait_until(lambda: not runs(old[other]), DETECTED + LATE, "the other part is ended, too")
    assert time.monotonic() - begun < DETECTED + LATE
    whole_again(group, old)


def test_a_follower_that_is_stopped_is_noticed_in_three_seconds(group: Cluster):
    old = [part(group, i) for i in (0, 1)]
    old[1].send_signal(signal.SIGSTOP)
    wait_until(lambda: not runs(old[0]), DETECTED + LATE, "the leader's part is ended")
    whole_again(group, old)
    assert any("is stopped" in e for e in group.events(0))


@pytest.mark.parametrize("index", [1, 0], ids=["the follower's", "the leader's"])
def test_a_dead_worker_ends_the_engine_though_its_main_process_stays(make_cluster: Make, index: int):
    """vLLM's main process takes seconds to end after it; here it is stopped for a moment, to see that nobody waits."""
    group = formed(make_cluster(2, model=MODEL | {"args": {"spawn-children": 2}}))
    old = [part(group, i) for i in (0, 1)]
    everything = [p for main in old for p in (main, *main.children(recursive=True))]
    needed = [p for p in old[index].children() if p.name().startswith("SIM::")]
    time.sleep(3)  # they must have been seen
    old[index].send_signal(signal.SIGSTOP)
    needed[0].kill()
    wait_until(lambda: not any(map(runs, everything)), DETECTED + LATE, "all of it is ended")
    told = f"(pid {needed[0].pid}) is dead"
    assert any(told in e for e in group.events(index)), group.events(index)
    whole_again(group, old)


@pytest.mark.parametrize("index", [1, 0], ids=["follower's", "leader's"])
def test_a_node_process_that_dies_and_comes_back_ends_nothing(group: Cluster, index: int):
    old = [part(group, i) for i in (0, 1)]
    other = 1 - index
    group.kill_node(index)
    wait_until(lambda: group.member(other, index).get("state") == "dead", 10, "it is dead")
    wait_until(lambda: group.member(other, index)["age"] > 4, 10, "it has been dead for long")
    assert group.chat(other).status_code == 200
    group.start_node(index)
    group.wait_ready(1)
    wait_until(lambda: generation(group, index, seen_by=other) == 1, 10, "it is in the generation again")
    assert [p.pid for p in old] == [part(group, i).pid for i in (0, 1)]


def test_a_node_process_and_its_part_that_are_lost_end_the_engine(group: Cluster):
    old = [part(group, i) for i in (0, 1)]
    group.power_off(1)
    wait_until(lambda: not runs(old[0]), DETECTED + LATE, "the leader's part is ended")
    wait_until(lambda: "is dead" in seats(group, 0).get("waits", ""), 5, "what is waited for is told")
    assert group.chat(0).status_code == 503
    group.start_node(1)
    whole_again(group, old)


def test_a_part_that_dies_while_its_node_process_is_away_is_noticed(group: Cluster):
    old = [part(group, i) for i in (0, 1)]
    group.kill_node(1)
    wait_until(lambda: group.member(0, 1).get("state") == "dead", 10, "the node process is gone")
    old[1].kill()
    wait_until(lambda: not runs(old[0]), DETECTED + LATE, "the leader's part is ended")
    group.start_node(1)
    whole_again(group, old)


def test_a_member_that_is_stopped_in_good_order_lets_the_engine_finish(make_cluster: Make):
    cluster = formed(make_cluster(2, model=MODEL | {"args": {"decode-ms": 10}}))
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        cluster.processes[1].send_signal(signal.SIGTERM)
        assert "data: [DONE]" in list(lines)
    assert cluster.processes.pop(1).wait(20) == 0
    wait_until(lambda: cluster.engine_processes(0) == [], 5, "the leader's part is gone as well")


def test_a_standby_takes_a_lost_members_place_while_the_other_replica_goes_on(make_cluster: Make):
    """Two engines over two nodes each, and a standby; a node of one is lost under load."""
    model = MODEL | {"nodes_per_engine": 2, "args": {"decode-ms": 5}}
    cluster = make_cluster(5, model=model)
    cluster.config["nodes"][4]["role"] = "standby"
    cluster.config["recovery"]["takeover_after"] = 1.5
    cluster.path = cluster.write("config.yaml", cluster.config)
    formed(cluster, 2)
    old = [part(cluster, i) for i in (0, 1)]
    others = [part(cluster, i) for i in (2, 3)]
    streams = Load(cluster, [2], clients=4, streams=4)
    with Load(cluster, [2, 3], clients=2) as load, streams:
        wait_until(lambda: load.count() >= 20 and streams.streamed >= 8, 20, "answers come")
        cluster.power_off(1)
        wait_until(lambda: generation(cluster, 4) == 2, 20, "the standby has the place")
        wait_until(lambda: len(cluster.ready_engines(2)) == 2, 20, "both serve")
        before = load.count(), streams.streamed
        wait_until(
            lambda: load.count() >= before[0] + 20 and streams.streamed >= before[1] + 8, 20, "they go on"
        )
    assert load.failures == []
    assert streams.failures == []
    assert all(map(runs, others))
    assert not any(map(runs, old))
    assert seats(cluster, 0)["offer"]["members"] == [cluster.names[0], cluster.names[4]]
    # The node that is back does not end what runs.
    running = [part(cluster, i).pid for i in (0, 4)]
    cluster.start_node(1)
    wait_until(lambda: cluster.member(0, 1)["state"] == "alive", 10, "it is back")
    wait_until(lambda: seats(cluster, 1).get("state") == "free", 10, "it waits for its place")
    assert [part(cluster, i).pid for i in (0, 4)] == running
    # The next generation has it again.
    part(cluster, 4).kill()
    wait_until(lambda: generation(cluster, 1) == 3, 20, "it has its place again")
    wait_until(lambda: cluster.member(0, 4)["covers"] is None, 60, "the standby is free again")


def test_unlike_members_are_told_and_nothing_starts(make_cluster: Make):
    cluster = make_cluster(2, model=MODEL)
    other = cluster.write("other.yaml", cluster.config | {"model": MODEL | {"args": {"max-num-seqs": 4}}})
    cluster.start_node(0)
    cluster.start_node(1, other)
    wait_until(lambda: "arguments must be the same" in seats(cluster, 0).get("waits", ""), 15, "it is told")
    assert cluster.engine_processes(0) == cluster.engine_processes(1) == []
