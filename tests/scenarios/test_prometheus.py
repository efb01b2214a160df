"""A real Prometheus, set up by `shoal monitor init`, watches a real cluster of simulated engines under load."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.observe.panels import BOARDS
from shoal.observe.rules import RECORDING
from support.batches import client, submit, write
from support.cluster import Cluster
from support.prometheus import Prometheus
from support.wait import wait_until

Make = Callable[..., Cluster]
pytestmark = pytest.mark.timeout(400)


@contextmanager
def asked(cluster: Cluster) -> Iterator[None]:
    """Ask all nodes, streams and others, while the block runs."""
    stop = threading.Event()

    def ask(node: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            cluster.chat(node, f"turn {turn}", stream=turn % 2 == 0, max_tokens=12)

    threads = [threading.Thread(target=ask, args=(node,)) for node in range(len(cluster.ports))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def watched(make_cluster: Make, tmp_path: Path) -> Iterator[tuple[Cluster, Prometheus]]:
    """Return three nodes, and a Prometheus that scrapes them every second; the file names only two of them."""
    out = tmp_path / "monitor"
    targets = out / "prometheus/targets/shoal.json"
    cluster = make_cluster(
        monitoring={"targets_file": str(targets)},
        communication={"protocol": "udp"},
        # Slow enough for a batch to be under way while the dashboards are asked.
        model={"path": "sim-model", "engine": "sim", "args": {"decode-ms": 20, "max-num-seqs": 8}},
    )
    two = cluster.write("two.yaml", cluster.config | {"nodes": cluster.config["nodes"][:2]})
    command = [sys.executable, "-m", "shoal", "monitor", "init", str(out), "--config", str(two)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    configuration = out / "prometheus/prometheus.yml"
    text = configuration.read_text()
    text = text.replace("_interval: 10s", "_interval: 1s").replace(
        "refresh_interval: 30s", "refresh_interval: 1s"
    )
    configuration.write_text(text.replace("scrape_interval: 1s", "scrape_interval: 1s\n  scrape_timeout: 1s"))
    for index in range(len(cluster.ports)):
        cluster.start_node(index)
    cluster.wait_ready(deadline=90)
    prometheus = Prometheus(configuration, tmp_path / "prometheus")
    yield cluster, prometheus
    prometheus.close()


def queries() -> list[tuple[str, str, str]]:
    """Return (panel, expression, what it needs) of every query of every dashboard, without Grafana's variables."""
    return [
        (
            f"{board.title} / {panel.title}",
            re.sub(r"\$(cluster|node|model|engine)\b", ".*", expr).replace("$__rate_interval", "15s"),
            panel.needs,
        )
        for board in BOARDS
        for panels in board.rows.values()
        for panel in panels
        for expr, _ in panel.queries
    ]


def test_prometheus_finds_the_nodes_and_every_dashboard_has_its_data(watched: tuple[Cluster, Prometheus]):
    cluster, prometheus = watched
    batch = write(cluster.directory / "in.jsonl", lines=20_000)
    with asked(cluster), client(cluster, 0) as openai:
        submit(openai.with_options(timeout=120), batch)  # beside the load that the clients make
        # The third one came by the file that nodes keep current.
        wait_until(
            lambda: len(prometheus.query('up{job="shoal",cluster="shoal"} == 1')) == 3, 60, "all are scraped"
        )
        gpus = bool(prometheus.query("shoal_gpu_memory_bytes"))
        assert len(queries()) > 50
        missing = dict.fromkeys(expr for _, expr, needs in queries() if gpus or needs != "gpu")

        def all_there() -> bool:
            for expr in list(missing):
                found = prometheus.query(expr)
                if found and all(series["value"][1] != "NaN" for series in found):
                    del missing[expr]
            return not missing

        try:
            wait_until(all_there, 90, every=0.5)
        except AssertionError:
            names = [f"{name}: {expr}" for name, expr, _ in queries() if expr in missing]
            raise AssertionError("no data for\n" + "\n".join(names)) from None
        for record in RECORDING:
            wait_until(lambda r=record: prometheus.query(r), 30, record)
    assert {s["metric"]["node"] for s in prometheus.query("shoal_build_info")} == set(cluster.names)


def test_a_node_that_is_gone_raises_its_alerts(watched: tuple[Cluster, Prometheus]):
    cluster, prometheus = watched
    wait_until(lambda: len(prometheus.query('up{job="shoal"} == 1')) == 3, 60, "all are scraped")
    # A scrape has one second here, and a busy machine may miss one: that is pending until the next.
    wanted = {"ShoalNodeDown", "ShoalMemberDead", "ShoalModelUnavailable"}
    wait_until(lambda: not prometheus.alerts().keys() & wanted, 60, "nothing is wrong")
    cluster.power_off(2)
    wait_until(lambda: prometheus.alerts().keys() >= {"ShoalNodeDown", "ShoalMemberDead"}, 60, "it is seen")
    assert "ShoalModelUnavailable" not in prometheus.alerts()
