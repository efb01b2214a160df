"""Rolling restart of gateway workers: nobody notices."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException

import pytest

from support.cluster import Cluster
from support.lean import LeanClient
from support.thorough import tries
from support.wait import wait_until

Make = Callable[..., Cluster]


def reload(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal", "reload", "--config", str(cluster.path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.alone
def test_thousands_of_requests_go_through_five_reloads_without_an_error(make_cluster: Make):
    cluster = make_cluster(nodes=1, gateway={"workers": 2})
    cluster.config["model"]["args"] = {"time-scale": 0}
    cluster.path = cluster.write("quick.yaml", cluster.config)
    cluster.start()
    total, clients = tries(10_000), 256
    end = time.monotonic() + 90
    reloaded = threading.Event()
    lock = threading.Lock()
    failures: list[str] = []
    answers = 0

    def client() -> None:
        nonlocal answers
        body = {"model": "sim-model", "prompt": "hello", "max_tokens": 1}
        with LeanClient(cluster.names[0], timeout=60) as http:
            while True:
                with lock:
                    if (answers >= total and reloaded.is_set()) or failures or time.monotonic() > end:
                        return
                try:
                    reply = http.post("/v1/completions", body)
                    problem = "" if reply.status == 200 else reply.text
                except (OSError, HTTPException) as error:
                    problem = repr(error)
                with lock:
                    answers += not problem
                    if problem:
                        failures.append(problem)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    reloads = [reload(cluster) for _ in range(5)]
    reloaded.set()
    for thread in threads:
        thread.join()
    assert [r.returncode for r in reloads] == [0] * 5, cluster.output(0)
    assert failures == []
    assert answers >= total
    assert sum("reloaded" in e for e in cluster.events(0)) == 5


def test_an_open_stream_is_finished_by_the_former_worker(make_cluster: Make):
    cluster = make_cluster(nodes=1).start()
    before = {w["pid"] for w in cluster.status(0)["workers"]}
    body = {"model": "sim-model", "prompt": "count", "max_tokens": 500, "stream": True, "ignore_eos": True}
    with cluster.http.stream("POST", cluster.url(0, "/v1/completions"), json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert reload(cluster).returncode == 0
        assert "data: [DONE]" in list(lines)
    after = {w["pid"] for w in cluster.status(0)["workers"]}
    assert not before & after


def test_sighup_takes_new_gateway_settings_and_refuses_a_broken_file(make_cluster: Make):
    cluster = make_cluster(nodes=1).start()
    assert cluster.chat(0, "x" * 20_000).status_code == 200
    cluster.write("config.yaml", cluster.config | {"gateway": {"max_body": 10_000}})
    assert reload(cluster).returncode == 0
    # A connection that was open before may still be served by the former worker.
    wait_until(lambda: cluster.chat(0, "x" * 20_000).status_code == 413, 10, "the new limit holds")
    cluster.write("config.yaml", cluster.config | {"gateway": {"max_bodi": 10_000}})
    os.kill(cluster.processes[0].pid, signal.SIGHUP)
    wait_until(lambda: any("reload refused" in e for e in cluster.events(0)), 10, "the mistake is told")
    assert cluster.chat(0).status_code == 200
