"""Engines that their own node ends: because the file changed, or because they did not get ready."""

from collections.abc import Callable

from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]


def test_an_adopted_engine_whose_configuration_changed_is_replaced(make_cluster: Make):
    cluster = make_cluster(nodes=1).start()
    pid = cluster.engine_processes(0)[0].pid
    cluster.kill_node(0)
    cluster.config["model"]["args"] = {"max-num-seqs": 5}
    cluster.start_node(0, config=cluster.write("changed.yaml", cluster.config))
    wait_until(lambda: any("is replaced" in e for e in cluster.events(0)), 15, "the change is noticed")
    wait_until(lambda: [p.pid for p in cluster.engine_processes(0)] not in ([], [pid]), 15, "another process")
    cluster.wait_ready(1)
    assert sum("is replaced" in e for e in cluster.events(0)) == 1


def test_an_engine_that_does_not_get_ready_is_killed_and_started_again(make_cluster: Make):
    cluster = make_cluster(
        nodes=1,
        model={"path": "sim-model", "engine": "sim", "args": {"load-time": 60}},
        engines={"start_timeout": 1.5, "probe_interval": 0.2, "probe_timeout": 1},
    )
    cluster.start_node(0)
    wait_until(lambda: any("failure 2 in a row" in e for e in cluster.events(0)), 20, "two starts failed")
    kills = [e for e in cluster.events(0) if "is killed: it was not ready within 1.5 s" in e]
    assert len(kills) == 2
