"""Three nodes, simulated engines, real processes: what an operator does and what must then be seen."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable

import psutil
import pytest

from support.cluster import Cluster
from support.load import Load
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1::2])
def test_nodes_may_start_in_any_order_and_every_port_answers(make_cluster: Make, order: tuple[int, ...]):
    cluster = make_cluster()
    for index in order:
        cluster.start_node(index)
        wait_until(lambda i=index: cluster.ready_engines(i), 20, "its own engine ready")
    cluster.wait_ready()
    for index in range(3):
        reply = cluster.chat(index)
        assert reply.status_code == 200, reply.text


def test_requests_to_one_port_are_answered_by_all_engines(cluster: Cluster):
    with Load(cluster, nodes=[0], clients=6) as load:
        wait_until(lambda: load.count() >= 60, 20, "60 answers")
    assert load.failures == []
    assert {e.split("/")[0] for e in load.answers} == set(cluster.names)


def test_a_killed_engine_under_load_costs_no_request_and_comes_back(cluster: Cluster):
    with Load(cluster, nodes=[0, 1, 2], clients=9) as load:
        wait_until(lambda: load.count() >= 50, 20, "50 answers")
        victim = cluster.kill_engine(1)
        killed = load.elapsed()
        wait_until(lambda: any("restarts in" in e for e in cluster.events(1)), 10, "the exit is noticed")
        wait_until(lambda: len(cluster.ready_engines(0)) == 3, 15, "three engines ready again")
        before = load.answers[f"{cluster.names[1]}/sim-model-0"]
        wait_until(lambda: load.answers[f"{cluster.names[1]}/sim-model-0"] > before, 10, "it answers again")
    assert load.failures == []
    assert load.elapsed() > killed
    assert not psutil.pid_exists(victim)
    assert any("was killed by SIGKILL" in e for e in cluster.events(1))


def test_the_loss_of_a_machine_is_routed_around_within_two_seconds_and_its_return_noticed(cluster: Cluster):
    with Load(cluster, nodes=[0, 2], clients=8) as load:
        wait_until(lambda: load.count() >= 50, 20, "50 answers")
        cluster.power_off(1)
        lost = time.monotonic()
        wait_until(lambda: cluster.member(0, 1).get("state") == "dead", 5, "the node is dead")
        wait_until(lambda: cluster.member(2, 1).get("state") == "dead", 5, "the node is dead")
        assert time.monotonic() - lost < 2.5  # 2 s, and the time this test needs to ask
        after = load.count()
        wait_until(lambda: load.count() >= after + 50, 20, "50 answers more")
        cluster.start_node(1)
        cluster.wait_ready()
    assert load.failures == []
    assert any(f"{cluster.names[1]} is dead" in e for e in cluster.events(0))
    assert any(f"{cluster.names[1]} is alive" in e for e in cluster.events(0))


def test_engines_of_a_killed_node_process_serve_on_and_are_adopted_without_a_reload(cluster: Cluster):
    engine = f"{cluster.names[1]}/sim-model-0"
    pid = cluster.engine_processes(1)[0].pid
    with Load(cluster, nodes=[0, 2], clients=6) as load:
        wait_until(lambda: load.answers[engine] >= 5, 20, "it answers")
        cluster.kill_node(1)
        wait_until(lambda: cluster.member(0, 1).get("state") == "dead", 5, "the node is dead")
        before = load.answers[engine]
        wait_until(lambda: load.answers[engine] >= before + 20, 20, "its engine goes on answering")
        cluster.start_node(1)
        cluster.wait_ready()
    assert load.failures == []
    assert cluster.engine_processes(1)[0].pid == pid
    assert any("adopted" in e for e in cluster.events(1))


def test_a_node_with_the_wrong_secret_never_joins(make_cluster: Make):
    right = {"secret": "the-right-secret-of-this-cluster"}
    cluster = make_cluster(cluster=right)
    cluster.start_node(0)
    cluster.start_node(1)
    cluster.wait_ready(2)
    wrong = cluster.write(
        "wrong.yaml", cluster.config | {"cluster": {"secret": "quite-another-secret-than-that"}}
    )
    cluster.start_node(2, config=wrong)
    wait_until(lambda: any("do not verify" in e for e in cluster.events(0)), 10, "the others say why")
    wait_until(lambda: any("do not verify" in e for e in cluster.events(2)), 10, "the node itself says why")
    wait_until(lambda: cluster.ready_engines(2), 10, "it is up for itself")
    assert cluster.member(0, 2)["state"] == "unknown"
    assert cluster.member(2, 0)["state"] == "unknown"
    assert len(cluster.ready_engines(0)) == 2


def test_garbage_datagrams_change_nothing(cluster: Cluster):
    before = {m["name"]: m["state"] for m in cluster.status(0)["members"]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(5_000):
            sender.sendto(os.urandom(number % 1_400), ("127.0.0.1", cluster.ports[0]))
    assert cluster.chat(0).status_code == 200
    assert {m["name"]: m["state"] for m in cluster.status(0)["members"]} == before
    assert len(cluster.ready_engines(0)) == 3


def test_a_second_process_with_the_same_identity_refuses_with_a_clear_message(cluster: Cluster):
    first = cluster.processes[0]
    second = cluster.start_node(0)
    assert second.wait(timeout=20) == 2
    cluster.processes[0] = first
    assert f"node {cluster.names[0]} already runs" in cluster.output(0)
    assert cluster.chat(0).status_code == 200


def test_a_taken_port_is_told_with_who_has_it(make_cluster: Make):
    cluster = make_cluster(nodes=1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", cluster.ports[0]))
        other.listen()
        assert cluster.start_node(0).wait(timeout=20) == 2
    assert f"the port is taken by process {os.getpid()}" in cluster.output(0)


def test_a_configuration_that_differs_between_nodes_is_reported(make_cluster: Make):
    cluster = make_cluster(nodes=2)
    other = cluster.config | {"model": {"path": "sim-model", "engine": "sim", "args": {"max-num-seqs": 7}}}
    cluster.start_node(0)
    cluster.start_node(1, config=cluster.write("other.yaml", other))
    cluster.wait_ready()
    for index in (0, 1):
        wait_until(
            lambda i=index: any("configuration differs" in e for e in cluster.events(i)), 10, "reported"
        )


def test_a_graceful_stop_finishes_running_requests_and_ends_the_engines(cluster: Cluster):
    engines = cluster.engine_processes(0)
    with Load(cluster, nodes=[1, 2], clients=8) as load:
        wait_until(lambda: load.count() >= 50, 20, "50 answers")
        assert cluster.stop_node(0) == 0
        after = load.count()
        wait_until(lambda: load.count() >= after + 50, 20, "50 answers more")
    assert load.failures == []
    assert not any(runs(e) for e in engines)
    wait_until(lambda: cluster.member(1, 0).get("state") == "left", 5, "it said good-bye")


def test_a_stream_under_way_is_finished_by_a_graceful_stop(cluster: Cluster):
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 300, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        cluster.processes[0].send_signal(signal.SIGTERM)
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert cluster.processes.pop(0).wait(timeout=20) == 0


def test_a_second_signal_stops_at_once(make_cluster: Make):
    cluster = make_cluster(nodes=1, recovery={"drain_timeout": 60})
    cluster.start()
    engines = cluster.engine_processes(0)
    body = {"model": "sim-model", "prompt": "long", "max_tokens": 30_000, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()  # kept: a generator that is dropped closes the connection
        next(lines)
        process = cluster.processes.pop(0)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in cluster.output(0), 5, "the node says that it drains")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 1
        assert time.monotonic() - began < 5
    wait_until(lambda: not any(runs(e) for e in engines), 5, "engines are gone")


def test_an_engine_in_a_crash_loop_backs_off_and_shows_its_last_error_lines(make_cluster: Make):
    models = [
        {"name": "good", "path": "sim-model", "engine": "sim"},
        {
            "name": "bad",
            "path": "x",
            "engine": "sim",
            "args": {"fault": '{"kind": "exit", "after_seconds": 0.1, "code": 3}'},
        },
    ]
    cluster = make_cluster(nodes=1)
    config = {k: v for k, v in cluster.config.items() if k != "model"} | {"models": models}
    cluster.start_node(0, config=cluster.write("loop.yaml", config))
    wait_until(lambda: any("failure 3 in a row" in e for e in cluster.events(0)), 20, "third failure")
    assert any("bad-0 restarts in" in e and "exited with code 3" in e for e in cluster.events(0))
    assert cluster.chat(0, model="good").status_code == 200
    bad = next(e for e in cluster.member(0, 0)["engines"] if e["id"] == "bad-0")
    assert bad["restarts"] >= 2
    assert bad["errors"]
    reply = cluster.chat(0, model="bad")
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "bad" in reply.json()["error"]["message"]
