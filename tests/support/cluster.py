"""Real clusters for tests: real `shoal serve` processes on loopback, driven in plain words."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
from ruamel.yaml import YAML

from shoal.engine import record
from support.ports import free_ports
from support.processes import runs
from support.wait import wait_until

Json = dict[str, Any]
_MARK = "TESTED_CLUSTER"


class Cluster:
    """Some nodes of one configuration. Every process it started is gone after `close`."""

    def __init__(self, directory: Path, nodes: int = 3, **config: Any) -> None:
        self.directory = directory
        self.ports = free_ports(nodes)
        self.names = [f"127.0.0.1:{p}" for p in self.ports]
        self.config: Json = {
            "nodes": [{"host": "127.0.0.1", "port": p} for p in self.ports],
            "model": {"path": "sim-model", "engine": "sim"},
            "recovery": {"restart_delay": 0.2, "drain_timeout": 5},
            "state_dir": str(directory / "state"),
        } | config
        self.path = self.write("config.yaml", self.config)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(timeout=30, trust_env=False)

    def write(self, name: str, config: Json) -> Path:
        """Write a configuration beside the cluster's own and return its path."""
        path = self.directory / name
        with path.open("w") as out:
            YAML(typ="safe").dump(config, out)
        return path

    # -- what a person does

    def start_node(
        self, index: int, config: Path | None = None, *more: str, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start `shoal serve` for the node; its output goes to node-INDEX.log."""
        command = [sys.executable, "-m", "shoal.serve", "--config", str(config or self.path)]
        with self.log(index).open("ab") as log:
            process = subprocess.Popen(
                [*command, "--node", self.names[index], *more],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {_MARK: str(self.directory)} | env,
            )
        self.processes[index] = process
        return process

    def join_node(self, member: int, *more: str, **env: str) -> int:
        """Start a node that no file names, by way of a member; return its index."""
        (port,) = free_ports(1)
        index = len(self.ports)
        self.ports.append(port)
        self.names.append(f"127.0.0.1:{port}")
        self.restart_joined(index, member, *more, **env)
        return index

    def restart_joined(self, index: int, member: int, *more: str, **env: str) -> None:
        """Run `shoal serve --join` for a node."""
        command = [sys.executable, "-m", "shoal.serve", "--join", self.names[member]]
        with self.log(index).open("ab") as log:
            self.processes[index] = subprocess.Popen(
                [*command, "--node", self.names[index], *more],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {_MARK: str(self.directory), "XDG_STATE_HOME": str(self.directory)} | env,
            )

    def start(self) -> "Cluster":
        """Start all nodes and wait until each one's gateway routes to every engine."""
        for index in range(len(self.ports)):
            self.start_node(index)
        self.wait_ready()
        return self

    def kill_node(self, index: int) -> None:
        """Kill -9 the node process; its engines live on."""
        process = self.processes.pop(index)
        process.kill()
        process.wait()

    def power_off(self, index: int) -> None:
        """Kill -9 the node process and its engines, as a power cut does."""
        engines = self.engine_processes(index)
        self.kill_node(index)
        for process in engines:
            process.kill()

    def stop_node(self, index: int, signum: signal.Signals = signal.SIGTERM, deadline: float = 20) -> int:
        """Stop the node gracefully and return its exit status."""
        process = self.processes.pop(index)
        process.send_signal(signum)
        return process.wait(timeout=deadline)

    def kill_engine(self, index: int) -> int:
        """Kill -9 the main process of the node's first engine; return its pid."""
        process = self.engine_processes(index)[0]
        process.kill()
        return process.pid

    # -- what a person sees

    def log(self, index: int) -> Path:
        return self.directory / f"node-{index}.log"

    def output(self, index: int) -> str:
        return self.log(index).read_text(errors="replace")

    def url(self, index: int, path: str = "") -> str:
        return f"http://{self.names[index]}{path}"

    def status(self, index: int) -> Json:
        """Return the status document of the node, {} while it does not answer."""
        try:
            reply = self.http.get(self.url(index, "/shoal/v1/status"), timeout=5)
            return reply.json() if reply.status_code == 200 else {}
        except (httpx.HTTPError, json.JSONDecodeError):
            return {}

    def member(self, seen_by: int, index: int) -> Json:
        """Return what one node says of another, {} when it does not know it."""
        members = self.status(seen_by).get("members", [])
        return next((m for m in members if m["name"] == self.names[index]), {})

    def ready_engines(self, seen_by: int) -> list[str]:
        """Return the full ids of the engines the node sees ready on members that are alive."""
        return [
            f"{m['name']}/{e['id']}"
            for m in self.status(seen_by).get("members", [])
            if m["state"] == "alive"
            for e in m["engines"]
            if e["state"] == "ready"
        ]

    def events(self, index: int) -> list[str]:
        return [e["text"] for e in self.status(index).get("events", [])]

    def engine_processes(self, index: int) -> list[psutil.Process]:
        """Return the main processes of the node's engines, as its records tell them."""
        pids = [r.leader.pid for r in self.engine_records(index) if r.leader is not None]
        return [p for p in (psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)) if runs(p)]

    def engine_records(self, index: int) -> list[record.Record]:
        """Return what the node keeps on disk of its engines."""
        return record.read_all(self.directory / f"state/127.0.0.1_{self.ports[index]}")[0]

    def wait_ready(
        self, engines: int | None = None, deadline: float = 30, nodes: list[int] | None = None
    ) -> None:
        """Wait until every running node sees `engines` (all nodes' by default) ready."""
        wanted = len(self.ports) if engines is None else engines
        for index in nodes if nodes is not None else list(self.processes):
            try:
                wait_until(
                    lambda i=index: len(self.ready_engines(i)) >= wanted, deadline, f"{wanted} engines ready"
                )
            except AssertionError as error:
                raise AssertionError(
                    f"{error}\n--- log of node {index}\n{self.output(index)[-4000:]}"
                ) from None

    # -- asking the model

    def chat(self, index: int, text: str = "hello", **more: Any) -> httpx.Response:
        body = {"model": "sim-model", "messages": [{"role": "user", "content": text}], "max_tokens": 8} | more
        return self.http.post(self.url(index, "/v1/chat/completions"), json=body)

    def close(self) -> None:
        """End everything that was started, engines included."""
        self.http.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in psutil.process_iter(["environ"]):
            # Engines of nodes that were killed on purpose outlive them: they inherited this cluster's mark.
            if (process.info["environ"] or {}).get(_MARK) == str(self.directory):
                process.kill()
