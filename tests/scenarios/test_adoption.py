"""Engines outlive their node process: the next one takes them over, or ends what it cannot take over."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from shoal.engine import record
from shoal.engine.record import Record
from support.cluster import Cluster
from support.load import Load
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]


def sim(**args: Any) -> dict[str, Any]:
    return {"path": "sim-model", "engine": "sim", "args": args}


def records(cluster: Cluster, index: int) -> list[Record]:
    return record.read_all(cluster.directory / f"state/127.0.0.1_{cluster.ports[index]}")[0]


def rewritten(cluster: Cluster, **config: Any) -> Path:
    return cluster.write("changed.yaml", cluster.config | config)


def test_a_stream_through_another_node_does_not_notice_the_death_of_its_engines_node_process(
    make_cluster: Make,
):
    cluster = make_cluster(nodes=2, model=sim(**{"decode-ms": 10, "spawn-children": 2}))
    cluster.config["nodes"][0]["role"] = "gateway"
    cluster.path = cluster.write("roles.yaml", cluster.config)
    cluster.start_node(0)
    cluster.start_node(1)
    cluster.wait_ready(1)
    before = records(cluster, 1)
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 600, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        cluster.kill_node(1)
        cluster.start_node(1)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert not any("error" in line for line in rest)
    cluster.wait_ready(1)
    after = records(cluster, 1)
    assert [(r.marker, r.leader, r.members) for r in after] == [
        (r.marker, r.leader, r.members) for r in before
    ]
    assert cluster.member(1, 1)["engines"][0]["restarts"] == 0
    assert any("is adopted: process" in e for e in cluster.events(1))


def test_an_engine_that_was_still_loading_is_adopted_and_gets_ready(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=sim(**{"load-time": 5}))
    cluster.start_node(0)
    wait_until(lambda: cluster.engine_processes(0), 20, "it loads")
    loading = cluster.engine_processes(0)[0].pid
    cluster.kill_node(0)
    cluster.start_node(0)
    cluster.wait_ready()
    assert cluster.engine_processes(0)[0].pid == loading


def test_what_died_meanwhile_is_cleared_with_its_whole_tree_and_started_anew(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=sim(**{"spawn-children": 3})).start()
    (left,) = records(cluster, 0)
    family = [psutil.Process(member.pid) for member in left.members]
    segments = [Path(f"/dev/shm/{segment.name}") for segment in left.segments]
    assert (len(family), bool(segments)) == (4, True)
    cluster.kill_node(0)
    assert left.leader is not None
    os.kill(left.leader.pid, signal.SIGKILL)
    assert sum(runs(p) for p in family) >= 3
    cluster.start_node(0)
    cluster.wait_ready()
    assert not any(runs(p) for p in family)
    assert not any(s.exists() for s in segments)
    assert any("is not adopted: its process" in e and "killed SIM::" in e for e in cluster.events(0))
    assert cluster.chat(0).status_code == 200


def test_an_engine_that_hung_meanwhile_is_adopted_found_hung_and_restarted(make_cluster: Make):
    cluster = make_cluster(
        nodes=2,
        recovery={"restart_delay": 0.2, "stall_timeout": 2},
        engines={"probe_interval": 0.5},
        communication={"timeout": 5},
    ).start()
    hung = cluster.engine_processes(1)[0]
    engine = cluster.member(0, 1)["engines"][0]
    cluster.kill_node(1)
    url = f"http://{engine['host']}:{engine['port']}/sim/fault"
    assert cluster.http.post(url, json={"kind": "hang"}).status_code == 200
    with Load(cluster, nodes=[0], clients=4) as load:
        cluster.start_node(1)
        wait_until(lambda: any("is killed: it had" in e for e in cluster.events(1)), 20, "it is found")
        cluster.wait_ready()
    assert load.failures == []
    assert not runs(hung)


def test_a_changed_configuration_replaces_engines_one_by_one(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=sim() | {"engines_per_node": 3})
    cluster.start_node(0)
    cluster.wait_ready(3)
    old = {p.pid for p in cluster.engine_processes(0)}
    assert len(old) == 3
    cluster.kill_node(0)
    cluster.start_node(0, rewritten(cluster, model=sim(salt="changed") | {"engines_per_node": 3}))
    wait_until(lambda: any("is replaced" in e for e in cluster.events(0)), 20, "they are adopted")
    fewest = 3

    def replaced() -> bool:
        nonlocal fewest
        engines = cluster.member(0, 0).get("engines", [])
        if engines:
            fewest = min(fewest, sum(e["state"] == "ready" for e in engines))
        now = {p.pid for p in cluster.engine_processes(0)}
        return len(now) == 3 and not now & old and sum(e["state"] == "ready" for e in engines) == 3

    with Load(cluster, nodes=[0], clients=4) as load:
        wait_until(replaced, 40, "all are new", every=0.05)
    assert load.failures == []
    assert fewest >= 2, "never a second one away while another is not back"
    assert sum("is replaced: its configuration changed" in e for e in cluster.events(0)) == 3


def test_an_adopted_engine_that_is_no_longer_wanted_is_ended(make_cluster: Make):
    cluster = make_cluster(nodes=1).start()
    unwanted = cluster.engine_processes(0)[0]
    cluster.kill_node(0)
    other = {"name": "other", "path": "other", "engine": "sim"}
    cluster.start_node(0, rewritten(cluster, model=other))
    wait_until(lambda: not runs(unwanted), 20, "it is gone")
    told = "sim-model-0 stops: it is no longer wanted"
    wait_until(lambda: any(told in e for e in cluster.events(0)), 5, "the event")
    wait_until(lambda: cluster.ready_engines(0) == [f"{cluster.names[0]}/other-0"], 20, "the other is there")


def test_time_in_which_the_node_process_was_stopped_is_nobodys_silence(make_cluster: Make):
    cluster = make_cluster(
        nodes=2, recovery={"stall_timeout": 2}, engines={"probe_interval": 0.5, "probe_timeout": 1}
    ).start()
    pid = cluster.engine_processes(1)[0].pid
    node = cluster.processes[1]
    with Load(cluster, nodes=[0], clients=4) as load:
        node.send_signal(signal.SIGSTOP)
        resume = time.monotonic() + 6
        wait_until(lambda: time.monotonic() > resume, 10)
        node.send_signal(signal.SIGCONT)
        seen = load.count()
        wait_until(lambda: load.count() > seen + 100, 20, "work goes on")
        cluster.wait_ready()
    assert load.failures == []
    assert cluster.engine_processes(1)[0].pid == pid
    assert not any("killed" in e or "no more requests" in e for e in cluster.events(1))


def test_a_node_that_hands_over_finishes_its_requests_and_the_next_one_has_its_engines(make_cluster: Make):
    cluster = make_cluster(nodes=2, model=sim(**{"decode-ms": 10})).start()
    before = records(cluster, 1)
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with (
        Load(cluster, [0], clients=4) as load,
        cluster.http.stream("POST", cluster.url(1, "/v1/completions"), json=body) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        cluster.processes[1].send_signal(signal.SIGUSR2)
        rest = [line for line in lines if line]  # a stream through the node itself ends as it should
        assert cluster.processes.pop(1).wait(timeout=20) == 0
        served = sum(n for engine, n in load.answers.items() if engine.startswith(cluster.names[1]))
        wait_until(  # the engine serves on without its node process
            lambda: sum(n for e, n in load.answers.items() if e.startswith(cluster.names[1])) > served, 20
        )
        cluster.start_node(1)
        cluster.wait_ready(2)
    assert rest[-1] == "data: [DONE]"
    assert load.failures == []
    after = records(cluster, 1)
    assert [(r.marker, r.leader) for r in after] == [(r.marker, r.leader) for r in before]
