"""Runs a cluster with an engine on each node, and asks all of it, half of it, or one engine of it for embeddings."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from benchmarks.gateway.run import free_ports
from benchmarks.pooling.results import DIRECT, ONE, TARGETS, TWO, Sample, Samples, sample
from lib.cluster import Cluster

NAME = "bert-large"
_READY = 900.0  # s for both engines to load
_WORDS = ("river", "engine", "paper", "market", "winter", "signal", "garden", "bridge", "letter", "number")


class BenchError(Exception):
    """It cannot go on; the message is for people."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        loads: requests at once.
        requests: of each target, load and round, for each of the requests at once.
        rounds: how often.
        words: of a text.
    """

    loads: tuple[int, ...]
    requests: int
    rounds: int
    words: int


class Running:
    """The cluster, ready.

    Attributes:
        config: its YAML file.
        engine: URL of the engine on the first node.
    """

    def __init__(self, config: Path, names: Sequence[str], engine: str) -> None:
        self.config = config
        self.engine = f"http://{engine}"
        self._names = names
        self._drained: set[str] = set()
        self._urls = {DIRECT: self.engine, ONE: f"http://{names[0]}", TWO: f"http://{names[0]}"}

    def url(self, target: str) -> str:
        """Return where to ask, after seeing to it that just the engines of a target get requests.

        Raises:
            BenchError: the cluster does not do that.
        """
        if target != DIRECT:
            self.only(1 if target == ONE else 2)
        return self._urls[target]

    def only(self, count: int) -> None:
        """See to it that just the engines of the first `count` nodes get requests.

        Raises:
            BenchError: the cluster does not do that.
        """
        wanted = set(self._names[count:])
        for name in wanted ^ self._drained:
            order = "drain" if name in wanted else "undrain"
            words = [sys.executable, "-m", "shoal", order, name, "-c", str(self.config)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BenchError(done.stderr.strip())
        self._drained = wanted
        _wait_until(lambda: self._in_rotation() == count, 60, f"{count} nodes are in rotation")

    def _in_rotation(self) -> int:
        return sum(m["state"] == "alive" for m in status(self._names[0])["members"])


def status(node: str) -> dict[str, Any]:
    """Return what a node tells of the cluster, without members where it does not answer."""
    try:
        found: dict[str, Any] = httpx.get(f"http://{node}/shoal/v1/status", timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return {"members": []}
    return found


@contextmanager
def running(
    model: dict[str, Any], directory: Path, tell: Callable[[str], None], nodes: int = 2
) -> Iterator[Running]:
    """Run nodes until the block ends.

    Args:
        model: section of the configuration.
        directory: for configuration, logs and state.
        tell: hears how far it is.
        nodes: how many.

    Raises:
        BenchError: they do not get ready.
    """
    ports = free_ports(nodes)
    names = [f"127.0.0.1:{port}" for port in ports]
    config = directory / "cluster.yaml"
    document = {
        "nodes": [{"host": "127.0.0.1", "port": port} for port in ports],
        "model": {"name": NAME} | model,
        "gateway": {"workers": 1},
        "state_dir": str(directory / "state"),
    }
    with config.open("w") as out:
        YAML(typ="safe").dump(document, out)
    cluster = Cluster(config, directory, {})
    try:
        tell(f"{nodes} engines load")

        def engines() -> list[dict[str, Any]]:
            if cluster.ended():
                raise BenchError(f"the cluster has ended:\n{cluster.last_lines()}")
            return [
                e
                for node in names
                for m in status(node)["members"]
                if m["name"] == node
                for e in m["engines"]
            ]

        _wait_until(
            lambda: [e["state"] for e in engines()] == ["ready"] * nodes, _READY, "all engines are ready"
        )
        first = engines()[0]
        yield Running(config, names, f"{first['host']}:{first['port']}")
    finally:
        cluster.stop()


def measure(cluster: Running, plan: Plan, tell: Callable[[str], None]) -> Samples:
    """Measure every target, one after the other, in rounds.

    Raises:
        BenchError: a request failed.
    """
    found: dict[tuple[str, int], list[Sample]] = {(t, n): [] for t in TARGETS for n in plan.loads}
    chance = random.Random(0)
    for turn in range(-1, plan.rounds):  # the first round warms up, and is forgotten
        for at_once, target in itertools.product(plan.loads, TARGETS):
            tell(f"{target}, {at_once} at once, round {turn + 1} of {plan.rounds}")
            url = cluster.url(target)
            count = at_once if turn < 0 else at_once * plan.requests
            texts = [" ".join(chance.choices(_WORDS, k=plan.words)) for _ in range(count)]
            one = asyncio.run(_ask(url, texts, at_once))
            if turn >= 0:
                found[target, at_once].append(one)
    return found


async def _ask(url: str, texts: Sequence[str], at_once: int) -> Sample:
    left = iter(texts)
    took: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one_after_the_other() -> None:
            for text in left:
                begun = time.perf_counter()
                reply = await client.post("/v1/embeddings", json={"model": NAME, "input": text})
                if reply.status_code != 200:
                    raise BenchError(f"{url} answered {reply.status_code}: {reply.text[:200]}")
                took.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        try:
            await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
        except httpx.HTTPError as error:
            raise BenchError(f"{url} did not answer: {error!r}") from error
        return sample(took, time.perf_counter() - begun)


def _wait_until(there: Callable[[], bool], limit: float, what: str) -> None:
    end = time.monotonic() + limit
    while not there():
        if time.monotonic() > end:
            raise BenchError(f"not within {limit:g} s: {what}")
        time.sleep(0.2)
