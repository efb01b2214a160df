"""Nodes that no file names: they join while others serve, are remembered, and leave."""

import json
import time
from collections.abc import Callable

from scenarios.test_drain import shoal
from shoal.cluster.signing import HEADER, Signer
from support.cluster import Cluster
from support.load import Load
from support.wait import wait_until

Make = Callable[..., Cluster]
SECRET = "the secret of this cluster"


def test_a_node_joins_under_load_takes_its_share_is_remembered_and_leaves(make_cluster: Make):
    cluster = make_cluster(2, cluster={"secret": SECRET, "tls": "on"}, routing={"policy": "round_robin"})
    cluster.start()
    with Load(cluster, nodes=[0], clients=4, pause=0.02) as load:
        wait_until(lambda: load.count() >= 20, 20, "20 answers")
        joined = cluster.join_node(0, SHOAL_SECRET=SECRET)
        name = cluster.names[joined]
        engine = f"{name}/sim-model-0"
        wait_until(lambda: engine in cluster.ready_engines(1), 30, "its engine is ready")
        ready = time.monotonic()
        wait_until(lambda: load.answers[engine] >= 5, 5, "it takes load within 5 s")
        assert time.monotonic() - ready < 5
        # In everybody's view, on every disk: a node that starts anew knows it though it does not run then.
        assert cluster.stop_node(joined) == 0
        assert cluster.stop_node(1) == 0
        cluster.start_node(1)
        wait_until(lambda: cluster.member(1, joined).get("state") in ("unknown", "left"), 15, "remembered")
        # It, too, knows where it belongs, though the member it came by is gone.
        cluster.restart_joined(joined, 1, SHOAL_SECRET=SECRET)
        wait_until(lambda: engine in cluster.ready_engines(0), 30, "back without asking")
        assert shoal("leave", name, "-c", cluster.path).returncode == 0
        assert cluster.processes[joined].wait(timeout=20) == 0
        wait_until(lambda: cluster.member(0, joined)["state"] == "left", 5, "it has left")
    assert load.failures == []
    told = shoal("events", "-c", cluster.path, "--all").stdout
    assert f"node {name} is taken in: it joins by way of {cluster.names[0]}" in told
    assert f"node {name} joined" in told or f"node {name} is alive" in told


def test_another_secret_is_refused_on_both_sides(make_cluster: Make):
    for tls in ("off", "on"):
        cluster = make_cluster(1, cluster={"secret": SECRET, "tls": tls}).start()
        joined = cluster.join_node(0, SHOAL_SECRET="another secret than that")
        assert cluster.processes.pop(joined).wait(timeout=20) == 2
        assert "does not take this node in" in cluster.output(joined)
        assert "differ" in cluster.output(joined)
        wait_until(
            lambda c=cluster: any("cluster.secret differs" in t for t in c.events(0)), 5, "told there, too"
        )
        cluster.ports.pop()


def test_nobody_joins_where_no_node_is(make_cluster: Make):
    cluster = make_cluster(1)
    joined = cluster.join_node(0)
    assert cluster.processes.pop(joined).wait(timeout=20) == 2
    assert "no node answers there" in cluster.output(joined)


def test_another_major_version_is_refused_and_the_member_says_so(make_cluster: Make):
    cluster = make_cluster(1).start()
    me = cluster.http.get(cluster.url(0, "/shoal/v1/self")).json()
    body = json.dumps({"node": "127.0.0.1:7", "version": "9.0.0"}).encode()
    signature = Signer("shoal", None, time.time).sign("POST", "/shoal/v1/join", body)
    reply = cluster.http.post(
        f"http://127.0.0.1:{me['link']}/shoal/v1/join", content=body, headers={HEADER: signature}
    )
    assert reply.status_code == 409
    assert "it runs Shoal 9.0.0, this cluster 0.1.0" in reply.text
    assert any("127.0.0.1:7 may not join: it runs Shoal 9.0.0" in text for text in cluster.events(0))
    assert len(cluster.status(0)["members"]) == 1


def test_a_name_that_runs_already_is_refused(make_cluster: Make):
    cluster = make_cluster(2).start()
    twin = make_cluster(1)
    twin.ports, twin.names = cluster.ports, cluster.names
    twin.restart_joined(1, 0)
    assert twin.processes.pop(1).wait(timeout=20) == 2
    assert f"a node {cluster.names[1]} already runs in this cluster" in twin.output(1)
