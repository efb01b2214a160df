"""Defects that systems of this kind have had, one test each, with real processes."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shoal.engine import record
from support.cluster import Cluster
from support.load import Load
from support.processes import runs
from support.wait import wait_until

Make = Callable[..., Cluster]
STALL = 2.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return three running nodes for tests that leave them as they were: whole."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    try:
        yield cluster.start()
    finally:
        cluster.close()


def model(**args: Any) -> dict[str, Any]:
    return {"path": "sim-model", "engine": "sim", "args": args}


def engine_of(cluster: Cluster, index: int) -> str:
    return f"{cluster.names[index]}/sim-model-0"


def fault(cluster: Cluster, index: int, **what: Any) -> None:
    """Order a fault of the node's engine."""
    engine = cluster.member(0, index)["engines"][0]
    url = f"http://{engine['host']}:{engine['port']}/sim/fault"
    assert httpx.post(url, json=what, trust_env=False).status_code == 200


def metric(cluster: Cluster, index: int, name: str) -> float:
    """Return the sum of a metric of the node's gateway over all its labels."""
    text = cluster.http.get(cluster.url(index, "/metrics")).text
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return sum(map(float, found))


def troubles(cluster: Cluster, index: int) -> list[float]:
    """Return how many faults the node's gateway has seen, and how often it has ejected an engine."""
    return [
        metric(cluster, index, f"shoal_gateway_{name}_total")
        for name in ("upstream_faults", "engine_faults", "ejections")
    ]


def answering(cluster: Cluster, asked: int, count: int = 30) -> Counter[str]:
    """Return which engines answer that many good requests at one node."""
    replies = [cluster.chat(asked) for _ in range(count)]
    assert {r.status_code for r in replies} == {200}
    return Counter(r.headers["x-shoal-engine"] for r in replies)


def test_simultaneous_arrivals_do_not_all_pick_one_engine(make_cluster: Make):
    cluster = make_cluster(routing={"policy": "least_connections"}, gateway={"workers": 2})
    cluster.config["model"]["args"] = {"decode-ms": 50}
    cluster.path = cluster.write("slow.yaml", cluster.config)
    cluster.start()
    clients = 30
    together = threading.Barrier(clients)

    def ask(number: int) -> str:
        with httpx.Client(timeout=30, trust_env=False) as http:
            body = {"model": "sim-model", "prompt": f"client {number}", "max_tokens": 16, "ignore_eos": True}
            together.wait(10)
            reply = http.post(cluster.url(0, "/v1/completions"), json=body)
        assert reply.status_code == 200, reply.text
        return str(reply.headers["x-shoal-engine"])

    with ThreadPoolExecutor(clients) as pool:
        engines = Counter(pool.map(ask, range(clients)))
    assert len(engines) == 3
    assert max(engines.values()) <= clients / 2


def test_one_hung_engine_does_not_delay_others(make_cluster: Make):
    cluster = make_cluster(
        recovery={"restart_delay": 0.2, "stall_timeout": STALL}, engines={"probe_interval": 0.5}
    ).start()
    fault(cluster, 1, kind="hang")
    hung = time.monotonic()
    times: list[tuple[str, float]] = []
    problems: list[str] = []

    def client(number: int) -> None:
        with httpx.Client(timeout=30, trust_env=False) as http:
            for turn in range(2_000):
                if time.monotonic() - hung > STALL + 4:
                    return
                body = {"model": "sim-model", "prompt": f"{number} {turn}", "max_tokens": 8}
                began = time.monotonic()
                reply = http.post(cluster.url(number % 3, "/v1/completions"), json=body)
                if reply.status_code != 200:
                    problems.append(reply.text)
                times.append((reply.headers.get("x-shoal-attempts", "1"), time.monotonic() - began))

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(client, range(9)))
    assert problems == []
    assert max(took for attempts, took in times if attempts == "1") < 1, "who was elsewhere noticed nothing"
    assert max(took for _, took in times) < STALL + 1.5, "who was there was moved"
    assert any("is killed: it had" in e and "got nothing done for" in e for e in cluster.events(1))
    cluster.wait_ready()


def test_a_stopped_engine_is_killed_and_restarted_also_when_nobody_uses_it(make_cluster: Make):
    cluster = make_cluster(
        nodes=2,
        recovery={"restart_delay": 0.2, "stall_timeout": STALL},
        engines={"probe_interval": 0.5, "probe_timeout": 0.5},
    ).start()
    stopped = cluster.engine_processes(1)[0]
    stopped.send_signal(signal.SIGSTOP)
    wait_until(lambda: any("gets no more requests" in e for e in cluster.events(1)), 10, "it is out")
    wait_until(lambda: any("is killed: it did not answer for" in e for e in cluster.events(1)), 10, "its end")
    cluster.wait_ready()
    assert not runs(stopped)


def test_one_dead_engine_does_not_break_v1_models(shared: Cluster):
    cluster = shared
    cluster.kill_engine(1)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for index in range(3):
            reply = cluster.http.get(cluster.url(index, "/v1/models"))
            assert reply.status_code == 200
            assert [m["id"] for m in reply.json()["data"]] == ["sim-model"]
    cluster.wait_ready()


def test_client_400s_never_eject(shared: Cluster):
    cluster = shared
    before = troubles(cluster, 0)
    for _ in range(60):
        assert cluster.chat(0, max_tokens=-1).status_code == 400
    assert troubles(cluster, 0) == before
    assert answering(cluster, 0).keys() == {engine_of(cluster, i) for i in range(3)}


@pytest.mark.parametrize("status", [429, 503])
def test_429_and_503_do_not_eject_and_recover_by_themselves(shared: Cluster, status: int):
    cluster = shared
    before = troubles(cluster, 0)
    fault(cluster, 1, kind="status", status=status, count=10)
    refused = 0
    end = time.monotonic() + 20
    while refused < 10 and time.monotonic() < end:
        reply = cluster.chat(0)
        assert reply.status_code in (200, status)
        refused += reply.status_code == status
    assert refused == 10, "they come through as the engine gave them"
    assert troubles(cluster, 0) == before
    assert engine_of(cluster, 1) in answering(cluster, 0), "at once, without anybody's help"
    assert len(cluster.ready_engines(0)) == 3


def test_a_retry_never_re_picks_the_failed_engine(make_cluster: Make):
    cluster = make_cluster(gateway={"max_attempts": 9, "workers": 1}).start()
    for index in range(3):
        fault(cluster, index, kind="refuse", how="reset")
    for _ in range(5):
        reply = cluster.chat(0)
        assert reply.status_code in (502, 503)
        message = reply.json()["error"]["message"]
        assert [message.count(engine_of(cluster, i)) for i in range(3)] == [1, 1, 1], message


def test_a_long_prefill_is_not_unhealthy(make_cluster: Make):
    cluster = make_cluster(
        nodes=1,
        model=model(**{"prefill-us-per-token": 2000, "max-num-batched-tokens": 256}),
        recovery={"stall_timeout": STALL},
        engines={"probe_interval": 0.5},
    ).start()
    pid = cluster.engine_processes(0)[0].pid
    body = {"model": "sim-model", "prompt": [5] * 3000, "max_tokens": 4, "ignore_eos": True}
    began = time.monotonic()
    reply = cluster.http.post(cluster.url(0, "/v1/completions"), json=body)
    assert reply.status_code == 200
    assert time.monotonic() - began > 2 * STALL
    assert cluster.engine_processes(0)[0].pid == pid
    assert not any("killed" in e or "no more requests" in e for e in cluster.events(0))


def test_the_gateway_starts_with_no_engine_up(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=model(**{"load-time": 4}))
    cluster.start_node(0)
    wait_until(lambda: cluster.status(0), 20, "the gateway answers")
    reply = cluster.chat(0)
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert cluster.http.get(cluster.url(0, "/v1/models")).json()["data"] == []
    cluster.wait_ready()
    assert cluster.chat(0).status_code == 200


def test_a_removed_engine_leaves_rotation_even_after_a_missed_event(make_cluster: Make):
    cluster = make_cluster(gateway={"workers": 1}).start()
    owner = cluster.processes[1]
    owner.send_signal(signal.SIGSTOP)  # nobody will ever tell that its engine is gone
    try:
        cluster.kill_engine(1)

        def others_only() -> bool:
            attempts = [cluster.chat(0) for _ in range(10)]
            return all(
                r.status_code == 200
                and r.headers["x-shoal-engine"] != engine_of(cluster, 1)
                and "x-shoal-attempts" not in r.headers
                for r in attempts
            )

        wait_until(others_only, 10, "it is not even tried")
        assert cluster.member(0, 1)["engines"][0]["state"] == "ready", "for all its owner has said"
    finally:
        owner.send_signal(signal.SIGCONT)
    cluster.wait_ready()


def test_engine_exit_with_code_0_is_a_failure(shared: Cluster):
    cluster = shared
    restarts = cluster.member(1, 1)["engines"][0]["restarts"]
    with Load(cluster, nodes=[0, 2], clients=4) as load:
        wait_until(lambda: load.count() >= 20, 20, "20 answers")
        fault(cluster, 1, kind="exit", code=0)
        wait_until(
            lambda: any("restarts in" in e and "it exited with code 0" in e for e in cluster.events(1)),
            10,
            "it counts as one",
        )
        cluster.wait_ready()
    assert load.failures == []
    assert cluster.member(1, 1)["engines"][0]["restarts"] == restarts + 1


def test_orphans_of_a_killed_engine_are_gone(make_cluster: Make):
    cluster = make_cluster(nodes=1, model=model(**{"spawn-children": 3})).start()
    state = cluster.directory / f"state/127.0.0.1_{cluster.ports[0]}"
    (kept,) = record.read_all(state)[0]
    family = [psutil.Process(member.pid) for member in kept.members]
    segments = [Path(f"/dev/shm/{segment.name}") for segment in kept.segments]
    assert len(family) == 4
    assert segments
    assert all(s.exists() for s in segments)
    os.kill(cluster.engine_processes(0)[0].pid, signal.SIGKILL)
    wait_until(lambda: not any(runs(p) for p in family), 10, "the whole tree is gone")
    wait_until(lambda: not any(s.exists() for s in segments), 5, "and its shared memory")
    cluster.wait_ready()
