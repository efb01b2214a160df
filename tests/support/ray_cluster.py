"""A real Ray cluster on this machine for tests: each node with a loopback address, processes and files of its own."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from support.ports import free_ports
from support.processes import runs
from support.wait import wait_until

START = 150.0  # seconds that Ray's nodes may take on a busy machine
_MARK, _NODE = "TESTED_RAY", "TESTED_RAY_NODE"


class RayCluster:
    """Nodes of Ray; the first is the head. Everything that descends from them is gone after `close`."""

    def __init__(self) -> None:
        # Short: a socket's path has at most 107 bytes, and Ray's part of it is long.
        self._directory = tempfile.TemporaryDirectory(prefix="ry", dir="/tmp", ignore_cleanup_errors=True)
        self._subnet = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self.address = f"{self._subnet}.1:{free_ports(1)[0]}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, cpus: int = 1) -> None:
        """Start nodes, and wait until all of them belong to the cluster."""
        for index in range(len(self.nodes), count):
            self.add(cpus)
            # One after the other: a node of Ray gives up when it has not come up within 30 s.
            wait_until(lambda i=index: self._started(i), START, f"node {index} of Ray runs", every=0.2)

    def add(self, cpus: int = 1) -> None:
        """Start one more node."""
        number = len(self.nodes) + 1
        ports = free_ports(2)
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        words += [
            "--node-ip-address",
            f"{self._subnet}.{number}",
            "--temp-dir",
            f"{self._directory.name}/{number}",
        ]
        words += ["--num-cpus", str(cpus), "--object-store-memory", str(80 << 20)]
        words += ["--min-worker-port", "0", "--max-worker-port", "0"]
        words += ["--dashboard-agent-listen-port", str(ports[0])]
        if number == 1:
            words += ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard", "false"]
            words += ["--ray-client-server-port", str(ports[1])]
        else:
            words += ["--address", self.address]
        with Path(self._directory.name, f"{number}.log").open("wb") as log:
            self.nodes.append(
                subprocess.Popen(
                    words,
                    env=os.environ
                    | {_MARK: self._directory.name, _NODE: str(number), "RAY_worker_niceness": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def host(self, index: int) -> str:
        """Return the address of a node."""
        return f"{self._subnet}.{index + 1}"

    def raylet(self, index: int) -> psutil.Process:
        """Return the process that is the node, as far as Ray is concerned."""
        children = psutil.Process(self.nodes[index].pid).children(recursive=True)
        return next(p for p in children if "raylet/raylet" in " ".join(p.cmdline()[:1]))

    def processes(self, index: int | None = None) -> list[psutil.Process]:
        """Return all processes that descend from the nodes, or from one of them, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marks = process.environ()
                mine = index is None or marks.get(_NODE) == str(index + 1)
                if marks.get(_MARK) == self._directory.name and mine:
                    found.append(process)
        return found

    def power_off(self, index: int) -> None:
        """Kill -9 all of a node and what it carries, as a power cut does."""
        for process in self.processes(index):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def close(self) -> None:
        """End everything, by kill: nothing in it is worth keeping."""
        for _ in range(100):
            left = [p for p in self.processes() if runs(p)]
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
            if not left:
                break
        for node in self.nodes:
            node.wait()
        self._directory.cleanup()

    def _started(self, index: int) -> bool:
        text = Path(self._directory.name, f"{index + 1}.log").read_text(errors="replace")
        assert self.nodes[index].poll() is None, text
        return "Ray runtime started" in text
