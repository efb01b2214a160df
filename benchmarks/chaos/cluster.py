"""A real cluster: ``shoal serve`` processes on the machines of a network, and what can be seen of them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from ruamel.yaml import YAML

from benchmarks.chaos.marked import MARK, end
from benchmarks.chaos.network import Network
from benchmarks.chaos.questions import MODEL
from benchmarks.gateway.processes import clean, spawn
from shoal.cluster.pki import SERVER_NAME
from shoal.engine import record
from shoal.node.certificates import Certificates

Json = dict[str, Any]

STALL_TIMEOUT = 3.0  # seconds; recovery.stall_timeout
RESTART_DELAY = 1.0  # seconds; recovery.restart_delay, Shoal's default
LOAD_TIME = 1.0  # seconds that a simulated engine takes to load its model
SIM_ARGS = {"decode-ms": 17, "decode-us-per-seq": 50, "load-time": LOAD_TIME}
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0


class ChaosError(Exception):
    """It cannot go on; the message is for people."""


class Cluster:
    """Some nodes with one simulated engine each.

    Args:
        directory: for configuration, logs and state.
        network: the machines.
        settings: sections of the configuration that differ from the usual.
    """

    def __init__(self, directory: Path, network: Network, settings: Json | None = None) -> None:
        self.network = network
        self.addresses = network.addresses
        self.names = [f"{host}:{port}" for host, port in network.addresses]
        self.state_dir = directory / "state"
        self.environment: dict[int, dict[str, str]] = {}
        self._directory = directory
        self._mark = secrets.token_hex(8)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._http = httpx.AsyncClient(timeout=1.0, trust_env=False)
        self._config = directory / "cluster.yaml"
        with self._config.open("w") as out:
            YAML(typ="safe").dump(self._configuration() | (settings or {}), out)

    def _configuration(self) -> Json:
        return {
            "nodes": [{"host": host, "port": port} for host, port in self.addresses],
            # Two helper processes per engine, as vLLM has: what a killed engine leaves behind must be cleaned up.
            "model": {
                "name": MODEL,
                "path": MODEL,
                "engine": "sim",
                "args": SIM_ARGS | {"spawn-children": 2},
            },
            "cluster": {"secret": secrets.token_hex(16)},
            "gateway": {"workers": 1},
            "engines": {"ports": [20000, 20999]},  # below those that nodes on loopback get
            # Failures are forgotten between two trials: each one is to be the first.
            "recovery": {
                "restart_delay": RESTART_DELAY,
                "healthy_after": 3,
                "stall_timeout": STALL_TIMEOUT,
                "drain_timeout": 1,
            },
            "state_dir": str(self.state_dir),
        }

    # -- what a person does

    def start_node(self, index: int) -> None:
        """Start ``shoal serve`` on a machine."""
        command = [sys.executable, "-m", "shoal.serve", "--config", str(self._config)]
        variables = clean(os.environ) | {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), MARK: self._mark}
        with self.log(index).open("ab") as log:
            self._processes[index] = spawn(
                [*self.network.enter(index), *command, "--node", self.names[index]],
                sorted(os.sched_getaffinity(0)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=variables | self.environment.get(index, {}),
            )

    async def start(self) -> None:
        """Start all nodes and wait for full strength.

        Raises:
            ChaosError: it was not reached.
        """
        for index in range(len(self.addresses)):
            self.start_node(index)
        await wait_for(self._full_or_failed, _START_TIMEOUT)
        if not await self.full():
            said = "\n".join(self.log(i).read_text(errors="replace")[-800:] for i in self.running())
            raise ChaosError(f"the cluster did not get ready within {_START_TIMEOUT:.0f} s:\n{said}")

    async def _full_or_failed(self) -> bool:
        return any(p.poll() is not None for p in self._processes.values()) or await self.full()

    def kill_node(self, index: int) -> None:
        """Kill -9 the node process; its engines live on."""
        process = self._processes.pop(index)
        process.kill()
        process.wait()

    async def fault(self, index: int, fault: Json) -> None:
        """Order a fault of the simulated engine of a node.

        Raises:
            ChaosError: the engine did not take it.
        """
        try:
            (await self._ask_engine(index, "/sim/fault", fault)).raise_for_status()
        except httpx.HTTPError as error:
            raise ChaosError(f"the engine of node {index} takes no orders: {error!r}") from error

    async def engine_requests(self, index: int) -> int:
        """Return how many requests for text the simulated engine of a node has got since it started.

        Raises:
            ChaosError: the engine does not say.
        """
        try:
            state = (await self._ask_engine(index, "/sim/state")).json()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise ChaosError(f"the engine of node {index} does not answer: {error!r}") from error
        return int(state["requests"])

    async def _ask_engine(self, index: int, path: str, order: Json | None = None) -> httpx.Response:
        """Ask the simulated engine of a node, or order something, as a node of the cluster does."""
        method = "GET" if order is None else "POST"
        engine = await self._known_engine(index)
        where = f"://{engine['host']}:{engine['port']}{path}"
        if not engine["authority"]:
            return await self._http.request(method, f"http{where}", json=order)
        trust = Certificates(self.node_state_dir(index), None).context(engine["authority"])
        assert trust is not None
        async with httpx.AsyncClient(timeout=1.0, trust_env=False, verify=trust) as http:
            name = {"sni_hostname": SERVER_NAME}
            return await http.request(method, f"https{where}", json=order, extensions=name)

    async def _known_engine(self, index: int) -> Json:
        for observer in range(len(self.addresses)):
            for engine in (await self.member(observer, index)).get("engines", []):
                return dict(engine)
        raise ChaosError(f"nobody knows an engine of node {index}")

    async def close(self) -> None:
        """End everything that was started."""
        await self._http.aclose()
        for process in self._processes.values():
            process.terminate()
        until = time.monotonic() + _STOP_TIMEOUT
        while time.monotonic() < until and any(p.poll() is None for p in self._processes.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """End everything that was started at once."""
        end(self._mark)
        for process in self._processes.values():
            process.wait()

    # -- what a person sees

    def log(self, index: int) -> Path:
        """Return where a node's output is."""
        return self._directory / f"node-{index}.log"

    def node_process(self, index: int) -> psutil.Process:
        """Return the node process."""
        return psutil.Process(self._processes[index].pid)

    def running(self) -> list[int]:
        """Return the nodes whose process was started and not killed."""
        return sorted(self._processes)

    def node_state_dir(self, index: int) -> Path:
        """Return where a node keeps its state."""
        host, port = self.addresses[index]
        return self.state_dir / f"{host}_{port}"

    def engine(self, index: int) -> psutil.Process:
        """Return the main process of a node's engine.

        Raises:
            ChaosError: there is none.
        """
        known = self.record(index)
        if known is not None and known.leader is not None and psutil.pid_exists(known.leader.pid):
            return psutil.Process(known.leader.pid)
        if index in self._processes:  # what the node could not note is at least its child
            for child in self.node_process(index).children():
                if "shoal.sim" in child.cmdline():
                    return child
        raise ChaosError(f"node {index} has no engine")

    def record(self, index: int) -> record.Record | None:
        """Return what a node has noted about its engine, None if it has not."""
        records, _ = record.read_all(self.node_state_dir(index))
        return records[0] if records else None

    async def status(self, index: int) -> Json:
        """Return the status document of a node, {} while it does not answer."""
        host, port = self.addresses[index]
        try:
            reply = await self._http.get(f"http://{host}:{port}/shoal/v1/status")
            document: Json = reply.json() if reply.status_code == 200 else {}
        except (httpx.HTTPError, json.JSONDecodeError):
            return {}
        return document

    async def member(self, observer: int, index: int) -> Json:
        """Return what one node says of another, {} while it does not answer."""
        members = (await self.status(observer)).get("members", [])
        return next((m for m in members if m["name"] == self.names[index]), {})

    async def instance(self, observer: int, index: int) -> str | None:
        """Return the instance of a node's engine as another node routes to it; "" when it is out of rotation.

        None while the observer does not answer.
        """
        member = await self.member(observer, index)
        if not member:
            return None
        ready = [e["instance"] for e in member["engines"] if e["state"] == "ready"]
        return ready[0] if ready and member["state"] == "alive" else ""

    async def full(self) -> bool:
        """Return whether every node sees every other one alive, every engine ready, and has its gateway workers."""
        # One after the other: most of the time the first one says no.
        for index in range(len(self.addresses)):
            if not full_strength(await self.status(index), len(self.addresses)):
                return False
        return True


def full_strength(status: Json, nodes: int) -> bool:
    """Return whether a status document shows a cluster of `nodes` nodes with nothing amiss. Pure."""
    members = status.get("members", [])
    return (
        sum(m["state"] == "alive" and any(e["state"] == "ready" for e in m["engines"]) for m in members)
        == nodes
        and all(e["state"] == "ready" for m in members for e in m["engines"])
        and all(w["pid"] and w["listening"] for w in status["workers"])
        and not status["isolated"]
    )


async def wait_for(
    condition: Callable[[], Awaitable[object]],
    deadline: float,
    every: float = 0.05,
    since: float | None = None,
) -> float | None:
    """Wait until `condition` returns something true and return the seconds since `since`, None if it never did.

    Args:
        condition: asked again and again.
        deadline: seconds from now.
        every: seconds between two times.
        since: a moment of `time.monotonic`; by default now.
    """
    begin = time.monotonic()
    since = begin if since is None else since
    while True:
        if await condition():
            return time.monotonic() - since
        if time.monotonic() - begin > deadline:
            return None
        await asyncio.sleep(every)
