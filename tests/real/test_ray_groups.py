"""An engine across nodes of real Ray, simulated: it forms, and is whole again where Ray has a node left.

Four nodes of Ray take a minute or more, so it runs by its name: `pytest tests/real/test_ray_groups.py -m rare`.
What nodes do that a controller has told, without Ray, is in `tests/scenarios/test_allotted_groups.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from support.on_ray import UP, OnRay, require_ray
from support.processes import runs
from support.ray_cluster import RayCluster
from support.wait import wait_until

MODEL = "sim-model"
# What the design promises, and what a busy machine may add to it. Seconds.
DETECTED, LATE = 3.0, 1.5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OnRay]:
    """Return a cluster on four nodes of Ray: a head without room for engines, and three with room for a part each."""
    require_ray()
    ray = RayCluster()
    try:
        ray.start(1, cpus=0)
        ray.start(4)
        yield OnRay(tmp_path, ray, {"nodes_per_engine": 2, "replicas": {"max": 1}}, substrate="ray")
    finally:
        ray.close()


def members(cluster: OnRay) -> list[str]:
    """Return the nodes of the generation that runs, by rank; none while there is none."""
    for member in cluster.status(0).get("members", []):
        for seat in member.get("seats", []):
            if seat["state"] == "running" and seat["offer"]:
                return list(seat["offer"]["members"])
    return []


def everywhere(cluster: OnRay, nodes: Iterable[int]) -> None:
    """Wait until each of these nodes answers, by the one engine."""
    for index in nodes:
        wait_until(lambda i=index: cluster.chat(i).status_code == 200, UP, f"node {index} answers", every=0.2)
        assert [cluster.chat(index).headers["x-shoal-engine"]] == cluster.ready()


def parts(cluster: OnRay, index: int) -> list[psutil.Process]:
    return [p for p in cluster.ray.processes(index) if runs(p) and "shoal.sim" in p.cmdline()]


def formed(cluster: OnRay) -> tuple[list[int], int]:
    """Start it; return the nodes of the engine, by rank, and the one that has no part of it."""
    cluster.up()
    pair = [cluster.names.index(name) for name in members(cluster)]
    assert 0 not in pair
    assert cluster.ready() == [f"{cluster.names[pair[0]]}/{MODEL}-0"]
    everywhere(cluster, range(4))
    (spare,) = {1, 2, 3} - {*pair}
    return pair, spare


def whole_again(cluster: OnRay, *nodes: int) -> None:
    """Wait until these nodes run the engine and answer."""
    both = {cluster.names[index] for index in nodes}
    wait_until(lambda: set(members(cluster)) == both, UP, "another has its place")
    wait_until(lambda: cluster.ready() == [f"{members(cluster)[0]}/{MODEL}-0"], UP, "it is ready", every=0.2)
    everywhere(cluster, (0, *nodes))


@pytest.mark.rare
@pytest.mark.parametrize("rank", [1, 0], ids=["the follower", "the leader"])
def test_an_engine_across_nodes_of_ray_loses_one_and_is_whole_again_on_another(cluster: OnRay, rank: int):
    pair, spare = formed(cluster)
    lost, kept = pair[rank], pair[1 - rank]
    old = parts(cluster, kept)
    assert "--headless" in parts(cluster, pair[1])[0].cmdline()

    cluster.ray.power_off(lost)
    wait_until(lambda: not any(map(runs, old)), DETECTED + LATE, "the other part is ended")
    whole_again(cluster, kept, spare)
    told = [e["text"] for s in cluster.statuses() for e in s["events"]]
    assert f"node {cluster.names[lost]} is forgotten: Ray has lost its node" in told
    cluster.down()
    assert cluster.left() == []


@pytest.mark.rare
def test_a_member_that_only_ray_has_lost_leaves_and_another_has_its_place(cluster: OnRay):
    (kept, lost), spare = formed(cluster)
    cluster.ray.raylet(lost).kill()  # what ran there goes on, and Ray may give its room to others
    wait_until(lambda: cluster.names[lost] not in cluster.alive(), UP, "its node has left", every=0.2)
    whole_again(cluster, kept, spare)
    assert parts(cluster, lost) == []
    cluster.down()
    assert cluster.left() == []
