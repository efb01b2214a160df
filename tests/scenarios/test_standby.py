"""Standby nodes: they take over for a lost node, and give back when it is there again."""

from collections.abc import Callable
from typing import Any

import pytest

from support.cluster import Cluster
from support.load import Load
from support.wait import wait_until

Make = Callable[..., Cluster]
# Losses are found within 0.5 s.
FAST = {"heartbeat_interval": 0.1, "suspect_after": 3, "confirm_timeout": 0.2}


def cluster_with(
    make_cluster: Make, serving: int, standbys: list[str], more: dict[str, Any] | None = None
) -> Cluster:
    """Return a cluster (not started) of some serving nodes and, after them, standby nodes of these kinds."""
    recovery = {"restart_delay": 0.2, "drain_timeout": 20, "takeover_after": 0.5, "return_after": 1.5}
    engines = {"probe_interval": 0.2, "start_timeout": 20, "probe_timeout": 2}
    cluster = make_cluster(
        serving + len(standbys), cluster=FAST, recovery=recovery, engines=engines, gateway={"workers": 1}
    )
    for node, kind in zip(cluster.config["nodes"][serving:], standbys, strict=True):
        node |= {"role": "standby", "standby": kind}
    cluster.config |= more or {}
    cluster.path = cluster.write("config.yaml", cluster.config)
    return cluster


def start(cluster: Cluster, ready: int) -> Cluster:
    for index in range(len(cluster.ports)):
        cluster.start_node(index)
    cluster.wait_ready(ready)
    return cluster


def covers(cluster: Cluster, standby: int, seen_by: int | None = None) -> str | None:
    return cluster.member(standby if seen_by is None else seen_by, standby).get("covers")


def engine(cluster: Cluster, index: int) -> str:
    return f"{cluster.names[index]}/sim-model-0"


def event(cluster: Cluster, index: int, *parts: str) -> bool:
    return any(all(part in text for part in parts) for text in cluster.events(index))


def test_a_warm_standby_starts_its_engine_for_a_lost_node_and_gives_back_without_a_failed_request(
    make_cluster: Make,
):
    cluster = start(cluster_with(make_cluster, 2, ["warm"]), ready=2)
    assert cluster.engine_processes(2) == []
    with Load(cluster, nodes=[0, 2], clients=6) as load:
        wait_until(lambda: load.count() >= 20, 20, "20 answers")
        cluster.power_off(1)
        wait_until(lambda: covers(cluster, 2, seen_by=0) == cluster.names[1], 5, "it has taken over")
        wait_until(lambda: load.answers[engine(cluster, 2)] >= 10, 10, "its engine answers")
        cluster.start_node(1)
        wait_until(lambda: cluster.engine_processes(2) == [] and not covers(cluster, 2), 20, "it gave back")
        before = load.answers[engine(cluster, 1)]
        wait_until(lambda: load.answers[engine(cluster, 1)] >= before + 10, 10, "the node serves again")
    assert load.failures == []
    assert event(cluster, 2, f"standby {cluster.names[2]} takes over for {cluster.names[1]}", "is dead")
    assert event(cluster, 2, f"gives back to {cluster.names[1]}", "ready for")
    assert event(cluster, 0, f"node {cluster.names[2]} stands in for {cluster.names[1]} now")
    assert cluster.member(0, 2)["engines"] == []


def test_a_hot_standby_gets_no_request_before_the_takeover_and_needs_no_start_then(make_cluster: Make):
    cluster = start(cluster_with(make_cluster, 2, ["hot"]), ready=3)
    (process,) = cluster.engine_processes(2)
    with Load(cluster, nodes=[0, 2], clients=6) as load:
        wait_until(lambda: load.count() >= 100, 20, "100 answers")
        assert load.answers[engine(cluster, 2)] == 0
        cluster.power_off(1)
        wait_until(lambda: load.answers[engine(cluster, 2)] >= 10, 5, "the spare engine answers")
        cluster.start_node(1)
        wait_until(lambda: event(cluster, 2, "gives back to"), 15, "it gave back")
        wait_until(lambda: cluster.member(0, 2)["engines"][0]["standby"], 5, "the others know")
        wait_until(lambda: cluster.member(0, 2)["engines"][0]["running"] == 0, 10, "it has finished")
        before, others = load.answers[engine(cluster, 2)], load.count()
        wait_until(lambda: load.count() >= others + 100, 20, "100 answers more")
        assert load.answers[engine(cluster, 2)] == before
    assert load.failures == []
    assert [p.pid for p in cluster.engine_processes(2)] == [process.pid]


def test_a_stream_under_way_on_a_warm_standby_is_finished_when_it_gives_back(make_cluster: Make):
    args = {"decode-ms": 20}
    cluster = cluster_with(
        make_cluster, 1, ["warm"], {"model": {"path": "sim-model", "engine": "sim", "args": args}}
    )
    start(cluster, ready=1)
    cluster.power_off(0)
    wait_until(lambda: cluster.ready_engines(1) == [engine(cluster, 1)], 15, "the standby serves")
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 400, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(1, "/v1/completions"), json=body) as reply:
        assert reply.headers["x-shoal-engine"] == engine(cluster, 1)
        lines = reply.iter_lines()
        next(lines)
        cluster.start_node(0)
        wait_until(lambda: event(cluster, 1, "gives back to"), 15, "it gives back")
        rest = list(lines)
    assert "data: [DONE]" in rest
    wait_until(lambda: cluster.engine_processes(1) == [], 15, "its engine has stopped")


def test_a_node_that_is_lost_again_while_its_standby_still_finishes_is_taken_over_for_again(
    make_cluster: Make,
):
    args = {"decode-ms": 20}
    cluster = cluster_with(
        make_cluster, 1, ["warm"], {"model": {"path": "sim-model", "engine": "sim", "args": args}}
    )
    start(cluster, ready=1)
    cluster.power_off(0)
    wait_until(lambda: cluster.ready_engines(1) == [engine(cluster, 1)], 15, "the standby serves")
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 500, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(1, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        cluster.start_node(0)
        wait_until(lambda: event(cluster, 1, "gives back to"), 15, "it gives back")
        cluster.power_off(0)
        wait_until(lambda: covers(cluster, 1) == cluster.names[0], 10, "it takes over again")
        assert "data: [DONE]" in list(lines)
    wait_until(lambda: cluster.ready_engines(1) == [engine(cluster, 1)], 20, "the standby serves again")
    assert cluster.chat(1).status_code == 200


def test_two_standbys_take_over_for_one_lost_node_each(make_cluster: Make):
    cluster = start(cluster_with(make_cluster, 4, ["warm", "warm"]), ready=4)
    cluster.power_off(0)
    wait_until(lambda: covers(cluster, 4) or covers(cluster, 5), 5, "one takes over")
    cluster.power_off(1)

    def covered() -> set[str | None]:
        return {covers(cluster, 4), covers(cluster, 5)}

    wait_until(lambda: covered() == {cluster.names[0], cluster.names[1]}, 10, "both lost nodes are covered")
    cluster.wait_ready(4, nodes=[2, 3])


@pytest.mark.parametrize("kind", ["warm", "hot"])
def test_a_mass_failure_starts_no_takeover(make_cluster: Make, kind: str):
    cluster = start(cluster_with(make_cluster, 3, [kind]), ready=3 + (kind == "hot"))
    for index in (0, 1):
        cluster.processes[index].kill()
    for index in (0, 1):
        cluster.power_off(index)
    wait_until(lambda: cluster.status(3).get("isolated"), 5, "the brake is on")
    wait_until(lambda: cluster.member(3, 0)["age"] > 4, 10, "it has had much more time than a takeover needs")
    assert cluster.status(3)["isolated"]
    assert covers(cluster, 3) is None
    assert not event(cluster, 3, "takes over")
    assert cluster.chat(3).headers["x-shoal-engine"] == engine(cluster, 2)


def test_a_node_process_that_is_killed_is_not_covered_while_its_engines_serve_on(make_cluster: Make):
    cluster = start(cluster_with(make_cluster, 2, ["warm"]), ready=2)
    engines = cluster.engine_processes(1)
    cluster.kill_node(1)
    wait_until(lambda: cluster.member(2, 1)["age"] > 4, 10, "it has been dead for long")
    assert cluster.member(2, 1)["state"] == "dead"
    assert covers(cluster, 2) is None
    for process in engines:
        process.kill()
    wait_until(lambda: covers(cluster, 2) == cluster.names[1], 10, "now it is covered")


def test_a_node_that_is_stopped_for_maintenance_is_covered_too(make_cluster: Make):
    cluster = start(cluster_with(make_cluster, 2, ["warm"]), ready=2)
    assert cluster.stop_node(1) == 0
    wait_until(lambda: covers(cluster, 2) == cluster.names[1], 10, "it has taken over")
    assert event(cluster, 2, f"takes over for {cluster.names[1]}", "left")


def test_a_standby_whose_process_is_killed_goes_on_where_it_was(make_cluster: Make):
    cluster = start(cluster_with(make_cluster, 2, ["warm"]), ready=2)
    cluster.power_off(1)
    wait_until(lambda: engine(cluster, 2) in cluster.ready_engines(0), 15, "the standby serves")
    (process,) = cluster.engine_processes(2)
    cluster.kill_node(2)
    cluster.start_node(2)
    wait_until(lambda: event(cluster, 2, "goes on standing in for", cluster.names[1]), 15, "it goes on")
    wait_until(lambda: engine(cluster, 2) in cluster.ready_engines(2), 15, "its engine is in use")
    assert covers(cluster, 2, seen_by=0) == cluster.names[1]
    assert [p.pid for p in cluster.engine_processes(2)] == [process.pid]
