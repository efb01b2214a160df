"""A fleet that changes while it serves: nodes come and go, models are swapped, bad ones go back by themselves."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenarios.test_drain import shoal
from support.cluster import Cluster
from support.load import Load
from support.wait import wait_until

Make = Callable[..., Cluster]
SLOW = {"decode-ms": 5}
DIES = {"fault": '{"kind": "exit", "code": 3}'}
ANSWERS_ERRORS = {"fault": '{"kind": "status", "status": 500, "count": null}'}


def cluster_of(make_cluster: Make, nodes: int, **more: Any) -> Cluster:
    settings = {
        "model": {"path": "sim-model", "engine": "sim", "args": SLOW},
        "engines": {"start_timeout": 8, "probe_interval": 0.2, "probe_timeout": 2},
        "routing": {"policy": "round_robin"},
        "gateway": {"workers": 1},
    }
    return make_cluster(nodes, **(settings | more))


def changed(cluster: Cluster, name: str, **model: Any) -> Path:
    return cluster.write(name, cluster.config | {"model": cluster.config["model"] | model})


def salts(cluster: Cluster, nodes: list[int]) -> set[str]:
    """Return the salt that each node's engines were started with."""
    found = set()
    for index in nodes:
        for process in cluster.engine_processes(index):
            words = process.cmdline()
            found.add(words[words.index("--salt") + 1] if "--salt" in words else "")
    return found


@pytest.mark.timeout(300)
def test_a_fleet_changes_under_load_without_a_failed_request_or_a_broken_stream(make_cluster: Make):
    cluster = cluster_of(make_cluster, 3).start()
    with Load(cluster, nodes=[0, 1], clients=6, streams=3, limit=240, pause=0.05) as load:
        wait_until(lambda: load.count() >= 20, 20, "20 answers")
        # A fourth node joins.
        fourth = cluster.join_node(0)
        engine = f"{cluster.names[fourth]}/sim-model-0"
        wait_until(lambda: engine in cluster.ready_engines(0), 30, "its engine is ready")
        ready = time.monotonic()
        wait_until(lambda: load.answers[engine] > 0, 5, "it takes load within 5 s")
        took = time.monotonic() - ready
        # One drains and leaves.
        assert shoal("drain", cluster.names[2], "-c", cluster.path, "--wait", "30").returncode == 0
        assert shoal("leave", cluster.names[2], "-c", cluster.path).returncode == 0
        assert cluster.processes.pop(2).wait(timeout=20) == 0
        # The model is swapped.
        swapped = changed(cluster, "swapped.yaml", args=SLOW | {"salt": "new"})
        planned = shoal("plan", "--diff", swapped)
        assert planned.returncode == 0, planned.stderr
        assert "model sim-model: args.salt: None -> new  (engine by engine)" in planned.stdout
        assert f"{cluster.names[fourth]}: engine sim-model-0 is replaced" in planned.stdout
        done = shoal("apply", swapped)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "canary: engine" in done.stdout
        assert "generation 1 of the configuration holds on every node" in done.stdout
        assert salts(cluster, [0, 1]) == {"new"}
        # A bad one rolls back by itself.
        bad = shoal("apply", changed(cluster, "bad.yaml", args=SLOW | DIES))
        assert bad.returncode == 1
        assert "is rolled back: engine" in bad.stdout
        assert "exited with code 3" in bad.stdout
        assert "the former configuration holds" in bad.stdout
        assert salts(cluster, [0, 1]) == {"new"}
        before = load.count()
        wait_until(lambda: load.count() >= before + 20, 20, "20 answers more")
    assert load.failures == []
    assert load.streamed > 10
    assert took < 5
    told = shoal("events", "-c", cluster.path, "--all", "-n", "1000").stdout
    for what in (
        f"node {cluster.names[fourth]} is taken in",
        f"node {cluster.names[2]} is drained",
        f"node {cluster.names[2]} has left the cluster for good",
        "apply: canary: engine",
        "generation 1 of the configuration holds",
        "apply: the configuration is rolled back",
        "goes back to the engines of the former configuration",
    ):
        assert what in told
    # What was applied holds over restarts, and for whoever was away.
    cluster.stop_node(1)
    cluster.start_node(1)
    cluster.wait_ready(3, nodes=[1])
    assert salts(cluster, [1]) == {"new"}
    assert any("generation 1 of the configuration" in text for text in cluster.events(1))


@pytest.mark.parametrize(
    ("args", "why"), [(DIES, "exited with code 3"), (ANSWERS_ERRORS, "not ready within")]
)
def test_a_model_that_is_not_good_gets_no_request_and_goes_back(make_cluster: Make, args: Any, why: str):
    cluster = cluster_of(make_cluster, 2).start()
    before = [p.pid for p in cluster.engine_processes(1)]
    with Load(cluster, nodes=[0, 1], clients=3, streams=1, limit=100, pause=0.05) as load:
        done = shoal("apply", changed(cluster, "bad.yaml", args=args))
        assert (done.returncode, why in done.stdout) == (1, True), done.stdout
        cluster.wait_ready(2)
    assert load.failures == []
    assert [p.pid for p in cluster.engine_processes(1)] == before
    assert {m["generation"] for m in cluster.status(0)["members"]} == {0}
    # The turn was given back.
    assert "nothing differs" in shoal("apply", cluster.path).stdout


def test_models_are_added_scaled_and_removed(make_cluster: Make):
    cluster = cluster_of(make_cluster, 2).start()
    model = cluster.config["model"]
    both = cluster.config | {"models": [model | {"engines_per_node": 2}, {"path": "other", "engine": "sim"}]}
    del both["model"]
    with Load(cluster, nodes=[0, 1], clients=3, streams=1, limit=100, pause=0.05) as load:
        done = shoal("apply", cluster.write("both.yaml", both))
        assert done.returncode == 0, done.stdout + done.stderr
        cluster.wait_ready(6)
        assert cluster.chat(0, model="other").status_code == 200
        done = shoal("apply", cluster.path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 engines that nobody wants finish and stop" in done.stdout
        wait_until(lambda: len(cluster.ready_engines(0)) == 2, 20, "they are gone")
        assert cluster.chat(1, model="other").status_code == 404
    assert load.failures == []


def test_what_would_leave_too_little_is_refused_and_one_at_a_time_applies(make_cluster: Make):
    cluster = cluster_of(
        make_cluster, 2, model={"path": "sim-model", "engine": "sim", "min_engines": 2}
    ).start()
    refused = shoal("apply", changed(cluster, "other.yaml", args={"salt": "x"}))
    assert refused.returncode == 1
    assert "would have 1 engine in rotation, and `min_engines` asks for 2" in refused.stdout
    assert "nothing was changed" in refused.stdout
    slow = changed(cluster, "slow.yaml", args={"salt": "y", "load-time": 3}, min_engines=1)
    command = [sys.executable, "-m", "shoal", "apply", str(slow), "--force"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        wait_until(
            lambda: "canary" in str(first.stdout.readline() if first.stdout else ""), 20, "it has begun"
        )
        second = shoal(
            "apply", changed(cluster, "third.yaml", args={"salt": "z"}), "--at", cluster.names[1], "--force"
        )
        assert second.returncode == 1
        assert "applies a configuration since" in second.stderr
        assert "one at a time" in second.stderr
        first.stdout.read()
        assert first.wait(timeout=60) == 0
    assert salts(cluster, [0, 1]) == {"y"}


def test_when_whoever_leads_is_gone_the_others_go_back_by_themselves(make_cluster: Make):
    cluster = cluster_of(make_cluster, 2).start()
    slow = changed(cluster, "slow.yaml", args={"salt": "y", "load-time": 5})
    command = [sys.executable, "-m", "shoal", "apply", str(slow), "--at", cluster.names[1]]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as leading:
        try:
            wait_until(lambda: salts(cluster, [0]) == {"y"}, 30, "the first engine is replaced")
            cluster.kill_node(1)
            wait_until(lambda: salts(cluster, [0]) == {""}, 45, "it goes back")
        finally:
            leading.kill()
    cluster.wait_ready(1, nodes=[0])
    assert any("is not heard any more" in text for text in cluster.events(0))
