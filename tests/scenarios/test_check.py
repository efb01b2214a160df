"""`shoal check` on three nodes at once, as people run it, and a trial with a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from support.cluster import Cluster

Make = Callable[..., Cluster]


def check(cluster: Cluster, node: int, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "shoal",
        "check",
        str(cluster.path),
        "--node",
        cluster.names[node],
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def test_nodes_check_each_other_and_each_tells_of_all_pairs(make_cluster: Make):
    cluster = make_cluster()
    first = check(cluster, 0, "--wait", "40", "--json")
    others = [check(cluster, node, "--wait", "40") for node in (1, 2)]
    status, out = said(first)
    document: dict[str, Any] = json.loads(out)
    assert (status, document["result"] in ("ok", "warning")) == (0, True), out
    network = [f["text"] for f in document["findings"] if f["check"] == "network"]
    for other in cluster.names[1:]:
        assert any(text.startswith(f"{other}: TCP ") and "UDP" in text for text in network)
    for a, b in ((1, 2), (2, 1), (1, 0), (2, 0)):
        assert any(text.startswith(f"{cluster.names[a]} to {cluster.names[b]}: ") for text in network), (a, b)
    for process in others:
        status, out = said(process)
        assert status == 0, out
        assert "FAIL" not in out
        assert "all is well" in out or "to look at" in out


def test_a_cluster_that_serves_is_not_taken_for_a_fault_without_a_word(make_cluster: Make):
    cluster = make_cluster(nodes=2)
    cluster.start_node(1)
    cluster.wait_ready(engines=1, deadline=90)
    status, out = said(check(cluster, 0, "--wait", "0", "--trial"))
    assert status == 1
    assert f"ask `shoal status {cluster.names[1]}`" in out
    assert "was loaded and answered /v1/completions" in out
    status, out = said(check(cluster, 1, "--alone"))
    assert status == 1
    assert f"node {cluster.names[1]} already runs on this machine" in out
