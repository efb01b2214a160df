"""Slowloris: thousands of connections that drip a request head do not slow anybody else down, and are closed."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from support import slowloris
from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]

CONNECTIONS = 5000
INTERVAL = 2.0  # s between two bytes of one connection
HEADER_TIMEOUT = 8
ROUNDS_BEFORE = 3  # the best one counts: the attack is in none of them, what else the machine does may be
ROUNDS = 7  # at most, likewise: the attack is in all of them
SAMPLES = 1500  # requests in a round: its p99 is the 15th slowest


@contextmanager
def attack(cluster: Cluster) -> Iterator[Callable[[], dict[str, int]]]:
    """Attack the node with a process of its own; yield a function that returns how that stands."""
    command = [sys.executable, slowloris.__file__, "127.0.0.1", str(cluster.ports[0]), str(CONNECTIONS)]
    last = {"open": 0, "closed": 0, "timed_out": 0}

    def listen() -> None:
        for line in process.stdout or ():
            last.update(json.loads(line))

    with subprocess.Popen(
        [*command, str(INTERVAL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield lambda: dict(last)
        finally:
            process.communicate(timeout=20)
            listener.join()


def p99(cluster: Cluster) -> float:
    """Return the 99th percentile of the latencies of a round of requests, s."""
    body = {"model": "sim-model", "prompt": "hello", "max_tokens": 1}
    latencies = []
    with httpx.Client(timeout=30, trust_env=False, verify=False) as http:
        for _ in range(SAMPLES):
            began = time.perf_counter()
            reply = http.post(cluster.url(0, "/v1/completions"), json=body)
            latencies.append(time.perf_counter() - began)
            assert reply.status_code == 200, reply.text
    return statistics.quantiles(latencies, n=100)[98]


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_slowloris_with_5000_connections_leaves_p99_within_twice_what_it_was(make_cluster: Make):
    cluster = make_cluster(nodes=1, gateway={"workers": 1, "header_timeout": HEADER_TIMEOUT})
    cluster.config["model"]["args"] = {"time-scale": 0}
    cluster.path = cluster.write("quick.yaml", cluster.config)
    cluster.start()
    p99(cluster)  # warms up what there is to warm up
    before = min(p99(cluster) for _ in range(ROUNDS_BEFORE))
    with attack(cluster) as seen:
        wait_until(lambda: seen()["open"] >= CONNECTIONS, 30, "the attack is complete")
        during = p99(cluster)
        for _ in range(ROUNDS - 1):
            if during <= 2 * before:
                break
            during = min(during, p99(cluster))
        assert seen()["open"] > 0.9 * CONNECTIONS, "the attack has gone on all the time"
        # header_timeout cuts off everybody who drips: each connection was replaced at least once.
        wait_until(lambda: seen()["closed"] >= CONNECTIONS, 6 * HEADER_TIMEOUT, "the attackers are closed")
        assert seen()["timed_out"] > 0.9 * CONNECTIONS, "with an answer that says why"
    assert during <= 2 * before, f"p99 before {1000 * before:.2f} ms, during {1000 * during:.2f} ms"
    print(f"p99 before {1000 * before:.2f} ms, during the attack {1000 * during:.2f} ms")
    wait_until(lambda: cluster.chat(0).status_code == 200, 10, "all is well afterwards")
