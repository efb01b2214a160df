"""When the engine of a stream fails, in whatever way, its client does not notice."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.cluster import Cluster
from support.metrics import total
from support.wait import wait_until

ARGS = {"decode-ms": 15}
BUSY = 1.0  # seconds more on a machine that has other things to do


class Reader(threading.Thread):
    """Reads one stream.

    Attributes:
        events: so far.
        gap: longest time between two of them, seconds.
        engine: the one that began it.
        lines: all that came.
        problem: what went wrong with the connection, "" if nothing did.
    """

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.url, self.number = url, number
        self.events = 0
        self.gap = 0.0
        self.engine = self.problem = ""
        self.lines: list[str] = []

    def run(self) -> None:
        body = {
            "model": "sim-model",
            "messages": [{"role": "user", "content": f"story {self.number}"}],
            "max_tokens": 150,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            with httpx.stream("POST", self.url, json=body, timeout=40, trust_env=False) as reply:
                self.engine = reply.headers.get("x-shoal-engine", "")
                last = time.monotonic()
                for line in reply.iter_lines():
                    self.lines.append(line)
                    if line.startswith("data: "):
                        now = time.monotonic()
                        self.gap, last = max(self.gap, now - last), now
                        self.events += 1
        except httpx.HTTPError as error:
            self.problem = repr(error)

    @property
    def resumed(self) -> bool:
        return any(line.startswith(": shoal: ") for line in self.lines)

    def complete(self) -> bool:
        return (
            not self.problem
            and self.lines.count("data: [DONE]") == 1
            and not any('"error"' in x for x in self.lines)
        )


def text_of(lines: list[str]) -> str:
    chunks = [json.loads(x[6:]) for x in lines if x.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def kill_engine(cluster: Cluster) -> None:
    cluster.kill_engine(0)


def kill_core(cluster: Cluster) -> None:
    (engine,) = cluster.member(1, 0)["engines"]
    httpx.post(f"http://127.0.0.1:{engine['port']}/sim/fault", json={"kind": "core"}, trust_env=False)


def stop_engine(cluster: Cluster) -> None:
    cluster.engine_processes(0)[0].send_signal(signal.SIGSTOP)


def power_off(cluster: Cluster) -> None:
    cluster.power_off(0)


@pytest.mark.parametrize("fault", [kill_engine, kill_core, power_off])
def test_streams_go_on_when(make_cluster: Callable[..., Cluster], fault: Callable[[Cluster], None]):
    assert_nobody_notices(make_cluster, fault)


def test_streams_move_away_from_an_engine_that_hangs(make_cluster: Callable[..., Cluster]):
    """No connection breaks, no probe is refused: it just stops. Its streams are elsewhere within a second more."""
    recovery = {"restart_delay": 0.2, "drain_timeout": 5, "stall_timeout": 3}
    cluster, readers = assert_nobody_notices(make_cluster, stop_engine, recovery=recovery)
    assert 1.5 < max(r.gap for r in readers) <= 4.0 + BUSY
    cluster.wait_ready(deadline=30)
    assert any("(recovery.stall_timeout)" in e for e in cluster.events(0))


@pytest.mark.long
def test_streams_that_are_read_together_go_on(make_cluster: Callable[..., Cluster]):
    def kill_while_read_together(cluster: Cluster) -> None:
        wait_until(lambda: _polls(cluster, 1) == 2, 5, "the gateway reads its streams together")
        cluster.kill_engine(0)

    assert_nobody_notices(
        make_cluster, kill_while_read_together, nodes=(1,), streams=48, gateway={"workers": 1}
    )


def _polls(cluster: Cluster, node: int) -> int:
    """Return how many epolls a node's gateway has: that of its loop, and one for streams that are read together."""
    children = psutil.Process(cluster.processes[node].pid).children()
    (worker,) = [child for child in children if "shoal.gateway" in child.cmdline()]
    opened = Path(f"/proc/{worker.pid}/fd").iterdir()
    return sum(file.readlink() == Path("anon_inode:[eventpoll]") for file in opened)


def assert_nobody_notices(
    make_cluster: Callable[..., Cluster],
    fault: Callable[[Cluster], None],
    nodes: tuple[int, ...] = (1, 2),
    streams: int = 9,
    **config: Any,
) -> tuple[Cluster, list[Reader]]:
    """Break the first node's engine under streams through `nodes`, and compare with undisturbed answers."""
    model = {"path": "sim-model", "engine": "sim", "args": ARGS}
    cluster = make_cluster(nodes=3, model=model, **config).start()
    readers = [Reader(cluster.url(nodes[i % len(nodes)], "/v1/chat/completions"), i) for i in range(streams)]
    for reader in readers:
        reader.start()
    wait_until(lambda: all(r.events >= 20 for r in readers), 20, "all streams have begun")
    fault(cluster)
    for reader in readers:
        reader.join(timeout=60)
    moved = [r for r in readers if r.resumed]
    assert moved, "the engine had some of the streams"
    assert all(r.engine.startswith(cluster.names[0]) for r in moved)
    assert all(r.complete() for r in readers), [
        (r.problem, r.lines[-3:]) for r in readers if not r.complete()
    ]
    undisturbed = [Reader(r.url, r.number) for r in readers]
    for reader in undisturbed:
        reader.start()
    for reader, again in zip(readers, undisturbed, strict=True):
        again.join(timeout=60)
        assert text_of(reader.lines) == text_of(again.lines)
    resumes = sum(
        total(cluster.http.get(cluster.url(node, "/metrics")).text, "shoal_gateway_resumes_total")
        for node in nodes
    )
    assert resumes == len(moved)
    return cluster, readers
