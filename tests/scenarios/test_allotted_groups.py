"""Engines across nodes where a controller says who takes part, as on Ray; here the test is the controller."""

import time
from collections.abc import Callable, Mapping

import pytest

from shoal.node.allotment import ALLOTMENT
from shoal.substrate import local
from support.cluster import Cluster
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]
# What the design promises, and what a busy machine may add to it. Seconds.
DETECTED, LATE = 3.0, 1.5


def allot(cluster: Cluster, index: int, seats: Mapping[str, object]) -> None:
    """Tell a node what it is to run of the model."""
    state_dir = cluster.directory / "state" / cluster.names[index].replace(":", "_")
    signer = local.signer_for("shoal", None)
    local.order(state_dir, signer, ALLOTMENT, {"engines": {"sim-model": seats}, "say": []})


def form(cluster: Cluster, *indices: int) -> None:
    """Tell these nodes that they share an engine, the first as its leader; wait until it serves."""
    names = [cluster.names[i] for i in indices]
    for rank, index in enumerate(indices):
        allot(cluster, index, {"0": {"replica": "sim-model/0", "nodes": names, "rank": rank}})
    wait_until(lambda: members(cluster, indices[0]) == names, 20, "they have formed it")
    wait_until(lambda: cluster.ready_engines(0) == [f"{names[0]}/sim-model-0"], 20, "it is ready")


def members(cluster: Cluster, index: int) -> list[str]:
    """Return the nodes of the generation that a node leads."""
    seats = cluster.member(0, index).get("seats", [])
    return list(seats[0]["offer"]["members"]) if seats and seats[0]["offer"] else []


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    """Return three nodes that run nothing until they are told to."""
    model = {"path": "sim-model", "engine": "sim", "nodes_per_engine": 2, "args": {"decode-ms": 10}}
    made = make_cluster(3, model=model, cluster={"substrate": "ray"})
    for index in range(3):
        made.start_node(index, None, **{local.MARK: "ray"})
    for index in range(3):
        wait_until(lambda i=index: made.status(i), 20, f"node {index} answers")
    return made


def test_a_lost_node_is_replaced_by_another_that_is_told_to(cluster: Cluster):
    assert cluster.engine_processes(0) == []
    form(cluster, 0, 1)
    assert cluster.chat(2).headers["x-shoal-engine"] == f"{cluster.names[0]}/sim-model-0"
    (old,) = cluster.engine_processes(0)
    cluster.power_off(1)
    begun = time.monotonic()
    wait_until(lambda: not runs(old), DETECTED + LATE, "the leader's part is ended")
    assert time.monotonic() - begun < DETECTED + LATE
    form(cluster, 0, 2)
    assert cluster.chat(0).status_code == cluster.chat(2).status_code == 200
    # Another leader is another group, of the same number.
    (leader,), (follower,) = cluster.engine_processes(0), cluster.engine_processes(2)
    form(cluster, 2, 0)
    assert not runs(leader) and not runs(follower)


def test_one_that_is_not_wanted_any_more_finishes_what_it_runs(cluster: Cluster):
    form(cluster, 0, 1)
    old = [*cluster.engine_processes(0), *cluster.engine_processes(1)]
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(2, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        for index in (1, 0):  # whoever hears of it first
            allot(cluster, index, {})
        assert "data: [DONE]" in list(lines)
    wait_until(lambda: not any(map(runs, old)), 10, "all parts are gone")
    wait_until(lambda: not cluster.member(2, 0)["seats"], 10, "the leader has no seat any more")
    assert any("it is not wanted any more" in event for event in cluster.events(0))
