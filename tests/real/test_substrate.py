"""A cluster on real Ray, with the simulated engine: three nodes of Ray on one machine, and what `shoal up` starts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from support.load import Load
from support.on_ray import UP, OnRay, process_of, require_ray, shoal
from support.ports import free_ports
from support.processes import runs
from support.ray_cluster import RayCluster
from support.wait import wait_until

SCALED = {
    "args": {"max-num-seqs": 4, "decode-ms": 10},
    "replicas": {"min": 1, "max": 3, "up_after": 1, "down_after": 5},
}


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    """Skip without Ray; start three nodes of one CPU each."""
    require_ray()
    cluster = RayCluster()
    try:
        cluster.start(3)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def cluster(ray: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    """Bring a cluster up there."""
    made = OnRay(tmp_path_factory.mktemp("ray"), ray, SCALED)
    made.up()
    wait_until(lambda: made.alive() == set(made.names[:3]), UP, "all three nodes are members", every=0.2)
    yield made
    made.http.close()


def engine_on(ray: RayCluster, host: str) -> psutil.Process:
    return process_of(ray, lambda p: "shoal.sim" in p.cmdline() and host in p.cmdline())


def test_replicas_follow_the_load_up_and_down(cluster: OnRay) -> None:
    assert len(cluster.ready()) == 1
    for index in range(3):  # gateways without an engine of their own route to it, as soon as they hear of it
        wait_until(lambda i=index: cluster.chat(i).status_code == 200, UP, f"node {index} answers", every=0.2)
    with Load(cluster, [0, 1, 2], clients=24, limit=UP) as load:
        wait_until(lambda: len(cluster.ready()) == 3, UP, "three engines", every=0.2)
    assert load.failures == []
    wait_until(lambda: len(cluster.ready()) == 1, UP, "one engine again", every=0.2)
    told = [e["text"] for s in cluster.statuses() for e in s["events"]]
    assert any("requests wait for" in text and "`replicas.queue` is 4" in text for text in told)
    assert any("3 -> 2 engines: one less was enough for 5 s" in text for text in told)


def test_an_engine_the_controller_and_a_node_of_ray_are_killed_under_load_and_one_comes(
    cluster: OnRay, ray: RayCluster
) -> None:
    config = cluster.config["model"] | {"replicas": {"min": 2, "max": 2, "up_after": 1, "down_after": 5}}
    file = cluster.write("two.yaml", cluster.config | {"model": config})
    applied = shoal("apply", str(file), "--at", cluster.names[0])
    assert applied.returncode == 0, applied.stdout + applied.stderr
    wait_until(lambda: len(cluster.ready()) == 2, UP, "two engines", every=0.2)

    with Load(cluster, [0, 1], clients=6, limit=UP, streams=2, pause=0.02) as load:
        wait_until(lambda: load.count() > 10, UP, "load")
        # First what only reconciles: nothing waits for it, and Ray starts it again.
        for actor in ("ray::Controller", "ray::Runner"):
            process_of(ray, lambda p, actor=actor: actor in " ".join(p.cmdline())).kill()
        first = cluster.ready()[0]
        engine_on(ray, first.rpartition(":")[0]).kill()
        wait_until(lambda: first not in cluster.ready(), UP, "the engine is missed")
        wait_until(lambda: len(cluster.ready()) == 2, UP, "it is back", every=0.2)
        node = process_of(ray, lambda p: "shoal.serve" in p.cmdline() and cluster.names[2] in p.cmdline())
        node.kill()
        wait_until(lambda: cluster.status(2).get("node"), UP, "its actor has started it again", every=0.2)
        ray.add()
        ray.raylet(2).kill()
        # Its node goes on serving until Ray says that it is lost; then it finishes what it runs, and leaves.
        wait_until(lambda: cluster.names[2] not in cluster.alive(), UP, "its node has left", every=0.2)
        wait_until(lambda: cluster.names[3] in cluster.alive(), UP, "the new one is a member", every=0.2)
        wait_until(lambda: len(cluster.ready()) == 2, UP, "two engines", every=0.2)
        count, streamed = load.count(), load.streamed
        wait_until(lambda: load.count() > count + 10 and load.streamed > streamed, UP, "more load")
    assert load.failures == []
    wait_until(lambda: cluster.chat(3).status_code == 200, UP, "the new one's gateway answers", every=0.2)
    assert not any(runs(p) and f"{ray.host(2)}:{cluster.ports[0]}" in p.cmdline() for p in ray.processes())


def test_it_can_only_be_up_once_and_ends_without_a_trace(cluster: OnRay, ray: RayCluster) -> None:
    twice = shoal("up", str(cluster.path), "--on", "ray", "--address", ray.address)
    assert twice.returncode == 2
    assert "is up on this Ray cluster already: `shoal apply FILE` changes it" in twice.stderr
    cluster.down()
    assert cluster.left() == []
    again = shoal("down", str(cluster.path), "--on", "ray", "--address", ray.address)
    assert (again.returncode, again.stderr.count("is not up on this Ray cluster")) == (2, 1)


def test_without_a_ray_cluster_it_says_so_at_once(cluster: OnRay) -> None:
    (port,) = free_ports(1)
    begun = time.monotonic()
    refused = shoal("up", str(cluster.path), "--on", "ray", "--address", f"127.0.0.1:{port}")
    assert refused.returncode == 2
    assert f"there is no Ray cluster at 127.0.0.1:{port}. Start one (`ray start --head`" in refused.stderr
    assert time.monotonic() - begun < 60  # Ray itself asks for two minutes
    with pytest.raises(httpx.HTTPError):
        httpx.get(cluster.url(0, "/v1/models"), timeout=5, trust_env=False)
