"""Gateways without engines, engines somebody else runs, several nodes from one command, the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from support.cluster import Cluster
from support.load import Load
from support.ports import free_ports
from support.wait import wait_until

Make = Callable[..., Cluster]


@contextmanager
def simulated_engine(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an engine that belongs to no node."""
    command = [
        sys.executable,
        "-m",
        "shoal.sim",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--model",
        "sim-model",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_gateway_node_answers_and_runs_no_engine(make_cluster: Make):
    cluster = make_cluster(nodes=2)
    nodes = cluster.config["nodes"]
    nodes[1]["role"] = "gateway"
    cluster.path = cluster.write("roles.yaml", cluster.config)
    cluster.start_node(0)
    cluster.start_node(1)
    cluster.wait_ready(1)
    reply = cluster.chat(1)
    assert reply.status_code == 200
    assert reply.headers["x-shoal-engine"].startswith(cluster.names[0])
    assert cluster.engine_processes(1) == []


def test_a_node_with_more_weight_does_more_of_the_work(make_cluster: Make):
    cluster = make_cluster(nodes=2, routing={"policy": "weighted_round_robin"})
    cluster.config["nodes"][1]["weight"] = 3
    cluster.path = cluster.write("weights.yaml", cluster.config)
    cluster.start()
    with Load(cluster, nodes=[0], clients=4) as load:
        wait_until(lambda: load.count() >= 200, 30, "200 answers")
    assert load.failures == []
    light, heavy = (load.answers[f"{name}/sim-model-0"] for name in cluster.names)
    assert 2.5 < heavy / light < 3.5


def test_external_engines_are_balanced_and_watched_but_never_started_or_stopped(make_cluster: Make):
    ports = free_ports(2)
    addresses = [{"url": f"http://127.0.0.1:{p}"} for p in ports]
    cluster = make_cluster(nodes=1, model={"name": "sim-model", "engine": "external", "addresses": addresses})
    with simulated_engine(ports[0]) as first, simulated_engine(ports[1]):
        cluster.start_node(0)
        wait_until(lambda: external_states(cluster) == ["ready", "ready"], 15, "both answer")
        wait_until(lambda: cluster.chat(0).status_code == 200, 5, "the gateway has been told")
        with Load(cluster, nodes=[0], clients=4) as load:
            wait_until(lambda: len(load.answers) == 2, 10, "both are used")
            first.kill()
            wait_until(lambda: external_states(cluster) == ["unhealthy", "ready"], 15, "one is out")
            before = load.count()
            wait_until(lambda: load.count() >= before + 20, 10, "the other one serves")
        assert load.failures == []
        with simulated_engine(ports[0]):
            wait_until(lambda: external_states(cluster) == ["ready", "ready"], 15, "it is back")
            assert cluster.stop_node(0) == 0
            assert (
                psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE
            )  # killed by this test, not by the node
            wait_until(lambda: answers(cluster, ports[1]), 5, "the node left it alone")


def external_states(cluster: Cluster) -> list[str]:
    return [e["state"] for e in cluster.status(0).get("external", [])]


def answers(cluster: Cluster, port: int) -> bool:
    return cluster.http.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_a_killed_gateway_worker_is_replaced(make_cluster: Make):
    cluster = make_cluster(nodes=1, gateway={"workers": 2}).start()
    pids = [w["pid"] for w in cluster.status(0)["workers"]]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)

    def replaced() -> bool:
        now = [w["pid"] for w in cluster.status(0).get("workers", []) if w["listening"]]
        return len(now) == 2 and pids[0] not in now

    wait_until(replaced, 10, "two workers again")
    assert cluster.chat(0).status_code == 200
    assert any("it is replaced" in e for e in cluster.events(0))


def test_one_command_starts_all_nodes_of_this_machine_and_ctrl_c_stops_them(make_cluster: Make):
    cluster = make_cluster(nodes=2)
    command = [sys.executable, "-m", "shoal.serve", "--config", str(cluster.path), "--local"]
    with cluster.log(0).open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        cluster.wait_ready(2, nodes=[0, 1])
        for index in (0, 1):
            assert cluster.chat(index).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
    assert cluster.output(0).count("has stopped") == 2


def test_shoal_status_shows_the_cluster_from_any_node_and_as_json(cluster: Cluster):
    def status(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shoal", "status", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    for name in cluster.names:
        shown = status(name)
        assert shown.returncode == 0, shown.stderr
        assert "engines ready 3/3" in shown.stdout
        assert all(f"{n}/sim-model-0" in shown.stdout for n in cluster.names)
    document = json.loads(status("--config", str(cluster.path), "--json").stdout)
    assert {m["name"] for m in document["members"]} == set(cluster.names)
    nobody = status("127.0.0.1:9")
    assert nobody.returncode == 1
    assert "no node answered" in nobody.stderr


def test_a_file_with_mistakes_does_not_start_and_tells_where_they_are(make_cluster: Make):
    cluster = make_cluster(nodes=1)
    wrong = cluster.write(
        "wrong.yaml", cluster.config | {"modle": {"path": "x"}, "routing": {"policy": "fastest"}}
    )
    assert cluster.start_node(0, config=wrong).wait(timeout=20) == 2
    output = cluster.output(0)
    assert "wrong.yaml:" in output
    assert "modle" in output
    assert "least_connections" in output
    assert "Traceback" not in output
