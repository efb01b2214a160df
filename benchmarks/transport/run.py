"""One protocol after the other: a cluster, and its broker; its links good and bad; a node that dies."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.cluster import ChaosError, Cluster, wait_for
from benchmarks.chaos.results import percentile
from benchmarks.gateway.processes import used
from benchmarks.transport.brokers import Maker, kafka, rabbitmq
from benchmarks.transport.network import Links
from lib.broker import Broker

DELAY, LOSS = 0.040, 0.01
"""Of the bad link, each way: seconds, and share of packets."""
DECODE_MS = 20
"""Milliseconds from one token to the next, as the simulated engines compute them."""
_IDLE = 3.0
_CARRIED = 60.0
GOOD, BAD = "clean", f"{LOSS:.0%} loss, {DELAY * 1000:.0f} ms"

Settings = dict[str, Any]
PROTOCOLS: dict[str, Maker | None] = {"tcp": None, "udp": None, "rabbitmq": rabbitmq, "kafka": kafka}
"""Protocols, and the broker that each needs."""


@dataclass(frozen=True)
class Length:
    """How much is measured.

    Attributes:
        streams: open at the same time.
        requests: clients with short questions.
        stream_seconds: for which streams are begun.
        request_seconds: for which short questions are asked.
        death_seconds: of load around the death of a node.
    """

    streams: int = 16
    requests: int = 16
    stream_seconds: float = 30.0
    request_seconds: float = 10.0
    death_seconds: float = 20.0


QUICK = Length(stream_seconds=10.0, request_seconds=4.0, death_seconds=8.0)


@dataclass
class Row:
    """What was seen of one protocol on one link. Times in milliseconds, processor time in microseconds.

    Attributes:
        protocol: its name.
        link: which link.
        first: time to the first token of a stream, p50 and p99.
        gap: between two tokens, p50 and p99.
        latency: of a short request, p50 and p99.
        rate: short requests per second.
        cpu_request: processor time of all nodes' processes but the engines, and of the broker, per short request.
        cpu_token: likewise per streamed token.
        longest: milliseconds until the first token of the answer that came last.
        asked: requests in all.
        failed: requests that failed.
        why: of some of them.
    """

    protocol: str
    link: str
    first: tuple[float, float] = (0.0, 0.0)
    gap: tuple[float, float] = (0.0, 0.0)
    latency: tuple[float, float] = (0.0, 0.0)
    rate: float = 0.0
    cpu_request: float = 0.0
    cpu_token: float = 0.0
    longest: float = 0.0
    asked: int = 0
    failed: int = 0
    why: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class Nodes(Cluster):
    """Three nodes of which the first is a gateway alone, and their broker if they have one."""

    broker: Broker | None = None

    async def full(self) -> bool:
        """Return whether the first node has all engines ready, and requests go by the protocol."""
        members = (await self.status(0)).get("members", [])
        ready = [e for m in members if m["state"] == "alive" for e in m["engines"] if e["state"] == "ready"]
        return len(ready) == len(self.names) - 1

    async def carried(self, protocol: str) -> bool:
        """Return whether requests to all other nodes go by the protocol now, by what nodes have said.

        With a broker those that take requests out of its queues have to say so, too.
        """
        if protocol == "tcp":
            return True
        tellers = self.running() if self.broker else [0]
        return all(by(protocol, self.log(i).read_text(errors="replace"), self.names[1:]) for i in tellers)

    def carriers(self) -> list[psutil.Process]:
        """Return all processes of the nodes but engines and what engines have started, and those of the broker."""
        found = self.broker.processes() if self.broker else []
        for index in self.running():
            node = self.node_process(index)
            found += [node, *(c for c in node.children() if _is_ours(c))]
        return found


def by(protocol: str, log: str, names: Sequence[str]) -> bool:
    """Return whether requests to all of these nodes go by a protocol, by the log of a node. Pure."""
    last: dict[str, bool] = {}
    for line in log.splitlines():
        for name in ("", *(f" to {n}" for n in names)):
            if f"requests{name} go by " in line:
                last[name] = f"go by {protocol}" in line
    return all(last.get(f" to {name}", last.get("", False)) for name in names)


def _is_ours(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return "shoal.gateway" in line or "shoal.transport" in line


async def measure(
    protocol: str, length: Length, directory: Path, say: Callable[[str], None]
) -> tuple[list[Row], Row]:
    """Return what was seen of a protocol on both links, and when a node died.

    Raises:
        UnavailableError: this machine has no namespaces or no TUN devices.
        ChaosError: the cluster did not start, or requests do not go by the protocol.
        BrokerError: the broker did not start.
        MissingError: there is no broker here.
    """
    network = Links(3)
    broker, nodes = None, None
    try:
        make = PROTOCOLS[protocol]
        if make is not None:
            say(f"{protocol}: the broker starts")
            broker = make(directory / "broker", network.host(network.broker), network.enter(network.broker))
            broker.start()
        say(f"{protocol}: the cluster starts")
        nodes = Nodes(directory, network, _settings(network, protocol, broker))
        nodes.broker = broker
        await nodes.start()
        await _carried(nodes, protocol)
        await _answered(nodes, protocol)
        idle = await _idle(nodes)
        say(f"{protocol}: {GOOD} link")
        rows = [await _both(nodes, protocol, GOOD, length, idle)]
        with network.bad(DELAY, LOSS):
            await _carried(nodes, protocol)
            say(f"{protocol}: link with {BAD}")
            rows.append(await _both(nodes, protocol, BAD, length, idle))
        await _carried(nodes, protocol)
        say(f"{protocol}: a node dies")
        died = await _death(nodes, protocol, length)
    finally:
        if nodes is not None:
            await nodes.close()
        if broker is not None:
            broker.close()
        network.close()
    return rows, died


def _settings(network: Links, protocol: str, broker: Broker | None) -> Settings:
    nodes = [{"host": host, "port": port} for host, port in network.addresses]
    nodes[0]["role"] = "gateway"
    return {
        "nodes": nodes,
        "model": {
            "name": "sim-model",
            "path": "sim-model",
            "engine": "sim",
            "args": {"decode-ms": DECODE_MS},
        },
        "communication": {"protocol": protocol} | ({"broker": {"urls": [broker.url]}} if broker else {}),
    }


async def _carried(nodes: Nodes, protocol: str) -> None:
    if await wait_for(lambda: nodes.carried(protocol), _CARRIED, every=0.2) is None:
        raise ChaosError(f"requests did not go by {protocol} within {_CARRIED:.0f} s")


async def _answered(nodes: Nodes, protocol: str) -> None:
    """Return when requests are answered: Kafka's groups need seconds to share out their partitions."""

    async def all_of_them() -> bool:
        seen = await _load(nodes, "--requests", 4, 1.0)
        return bool(seen["answers"]) and not seen["failures"]

    if await wait_for(all_of_them, _CARRIED) is None:
        raise ChaosError(f"requests by {protocol} failed for {_CARRIED:.0f} s")


async def _idle(nodes: Nodes) -> float:
    """Return the processor seconds per second of nodes that nobody asks anything."""
    before = used(nodes.carriers()).cpu
    await asyncio.sleep(_IDLE)
    return (used(nodes.carriers()).cpu - before) / _IDLE


async def _both(nodes: Nodes, protocol: str, link: str, length: Length, idle: float) -> Row:
    row = Row(protocol, link)
    await _load(nodes, "--streams", length.streams, 3.0)  # connections get to know their path
    seen, cpu = await _costed(nodes, "--streams", length.streams, length.stream_seconds, idle)
    row.cpu_token = 1e6 * cpu / max(1, seen["events"])
    row.first, row.gap = _percentiles(seen["first"]), _percentiles(seen["gaps"])
    short, cpu = await _costed(nodes, "--requests", length.requests, length.request_seconds, idle)
    row.cpu_request = 1e6 * cpu / max(1, short["answers"])
    row.latency = _percentiles(short["first"])
    row.rate = short["answers"] / length.request_seconds
    _failures(row, seen, short)
    return row


async def _costed(
    nodes: Nodes, kind: str, clients: int, seconds: float, idle: float
) -> tuple[dict[str, Any], float]:
    """Return what a load saw, and the processor seconds it took beyond those of idle nodes."""
    began, before = time.monotonic(), used(nodes.carriers()).cpu
    seen = await _load(nodes, kind, clients, seconds)
    took = used(nodes.carriers()).cpu - before
    return seen, max(0.0, took - idle * (time.monotonic() - began))


async def _death(nodes: Nodes, protocol: str, length: Length) -> Row:
    """Kill the last node with everything on it under load."""
    row = Row(protocol, "a node dies")
    streams = asyncio.create_task(_load(nodes, "--streams", length.streams, length.death_seconds))
    short = asyncio.create_task(_load(nodes, "--requests", 4, length.death_seconds))
    await asyncio.sleep(length.death_seconds / 3)
    last = len(nodes.names) - 1
    engine = nodes.engine(last)
    doomed = [p for p in nodes.node_process(last).children() if _is_ours(p)]
    nodes.kill_node(last)
    for process in (engine, *doomed):
        if process.is_running():
            process.kill()
    seen = await streams, await short
    row.longest = 1000 * max((*seen[0]["first"], *seen[1]["first"]), default=0.0)
    _failures(row, *seen)
    return row


async def _load(nodes: Nodes, kind: str, clients: int, seconds: float) -> dict[str, Any]:
    host, port = nodes.addresses[0]
    command = [*nodes.network.enter(0), sys.executable, "-m", "benchmarks.transport.load", host, str(port)]
    process = await asyncio.create_subprocess_exec(
        *command,
        kind,
        str(clients),
        "--seconds",
        str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


def _failures(row: Row, *seen: dict[str, Any]) -> None:
    failures = [failure for one in seen for failure in one["failures"]]
    row.failed = len(failures)
    row.asked = row.failed + sum(one["answers"] for one in seen)
    row.why = sorted(set(failures))[:3]


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    return 1000 * (percentile(seconds, 0.5) or 0.0), 1000 * (percentile(seconds, 0.99) or 0.0)
