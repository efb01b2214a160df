"""Nodes out of rotation and back, or out of the cluster, while others serve."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shoal.cluster.signing import HEADER, Signer
from support.cluster import Cluster
from support.load import Load
from support.wait import wait_until

Make = Callable[..., Cluster]


def shoal(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the `shoal` command."""
    return subprocess.run(
        [sys.executable, "-m", "shoal", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | env,
    )


def test_a_drained_node_gets_no_new_requests_finishes_its_streams_and_comes_back_over_a_restart(
    make_cluster: Make,
):
    model = {"path": "sim-model", "engine": "sim", "args": {"decode-ms": 20}}
    cluster = make_cluster(2, model=model, routing={"policy": "round_robin"}).start()
    first, second = cluster.names
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 150, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        drained = reply.headers["x-shoal-engine"].rpartition("/")[0]
        other = second if drained == first else first
        lines = reply.iter_lines()
        next(lines)
        # Told by way of the other node, over its gateway's port.
        done = shoal("drain", drained, "--at", other)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        wait_until(
            lambda: {cluster.member(i, cluster.names.index(drained))["state"] for i in (0, 1)} == {"drained"},
            5,
            "both know",
        )
        for index in (0, 1):
            for _ in range(4):
                assert cluster.chat(index).headers["x-shoal-engine"].startswith(f"{other}/")
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert sum('"text"' in line for line in rest) >= 149
    assert shoal("drain", drained, "-c", cluster.path, "--wait", "20").stdout.endswith("runs nothing more\n")
    # The floor: with the other one drained, too, nothing would serve.
    refused = shoal("drain", other, "-c", cluster.path)
    assert refused.returncode == 1
    assert "0 engines in rotation" in refused.stderr
    assert "--force" in refused.stderr
    index = cluster.names.index(drained)
    cluster.kill_node(index)
    cluster.start_node(index)
    wait_until(lambda: cluster.member(index, index).get("state") == "drained", 15, "drained as before")
    assert any("still drained" in text for text in cluster.events(index))
    assert cluster.chat(index).headers["x-shoal-engine"].startswith(f"{other}/")
    assert shoal("undrain", drained, "-c", cluster.path).returncode == 0
    wait_until(
        lambda: cluster.chat(index).headers["x-shoal-engine"].startswith(f"{drained}/"), 10, "it serves again"
    )
    told = shoal("events", "-c", cluster.path, "--all").stdout
    assert f"node {drained} is drained: its engines get no new requests" in told
    assert f"node {drained} takes requests again" in told


def test_a_node_leaves_under_load_without_a_failed_request(make_cluster: Make):
    cluster = make_cluster(3).start()
    with Load(cluster, nodes=[0, 1], clients=4, pause=0.02) as load:
        wait_until(lambda: load.count() >= 20, 20, "20 answers")
        done = shoal("leave", cluster.names[2], "-c", cluster.path)
        assert done.returncode == 0, done.stderr
        assert cluster.processes[2].wait(timeout=20) == 0
        wait_until(lambda: cluster.member(0, 2)["state"] == "left", 5, "it has left")
        before = load.count()
        wait_until(lambda: load.count() >= before + 20, 20, "20 answers more")
    assert load.failures == []
    assert any("leaves the cluster for good" in line for line in cluster.output(2).splitlines())


def test_orders_need_the_secret_wherever_they_come_from(make_cluster: Make):
    secret = "the secret of this cluster"
    cluster = make_cluster(1, cluster={"secret": secret}).start()
    node = cluster.names[0]
    plain = cluster.http.post(cluster.url(0, "/shoal/v1/nodes/drain"), json={"node": node, "force": True})
    assert plain.status_code == 401
    wrong = shoal("drain", node, "--at", node, "--force", SHOAL_SECRET="another secret than that")
    assert wrong.returncode == 1
    assert "secrets (or cluster names) differ" in wrong.stderr
    assert any("is refused" in text and "differ" in text for text in cluster.events(0))
    assert cluster.member(0, 0)["state"] == "alive"
    header = Signer("shoal", secret, lambda: 0.0).sign("POST", "/shoal/v1/nodes/drain", b"{}")
    late = cluster.http.post(cluster.url(0, "/shoal/v1/nodes/drain"), content=b"{}", headers={HEADER: header})
    assert (late.status_code, "clocks" in late.text) == (401, True)
    assert shoal("drain", node, "--at", node, "--force", SHOAL_SECRET=secret).returncode == 0
    reply = cluster.chat(0)
    assert (reply.status_code, "drained" in reply.text) == (503, True)
    assert "retry-after" in reply.headers


def test_a_node_nobody_knows_is_refused_with_those_there_are(make_cluster: Make):
    cluster = make_cluster(1).start()
    for command in ("drain", "leave"):
        done = shoal(command, "127.0.0.1:1", "-c", cluster.path)
        assert done.returncode == 1
        assert cluster.names[0] in done.stderr
