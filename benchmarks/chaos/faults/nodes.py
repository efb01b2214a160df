"""Faults of the processes of a node."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import ClassVar

import psutil

from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.faults.base import OTHERS, Fault
from benchmarks.chaos.network import Namespaces


class NodeKilled(Fault):
    """The node process is killed, its engines live on."""

    name: ClassVar[str] = "node process killed"
    meaning: ClassVar[str] = (
        "`kill -9` of a node process; load enters through the other nodes. Noticed: another node "
        "calls it dead. After 4 s it is started again, as systemd would. Recovery is counted from "
        "there: every node sees all alive and ready. A remark says so if the engine got no requests "
        "meanwhile, or is not the same process as before."
    )
    entries: ClassVar[tuple[int, ...]] = OTHERS
    hold: ClassVar[float | None] = 4.0

    async def begin(self) -> None:
        """Note the engine."""
        self.engine = self.cluster.engine(self.victim)
        self.requests_when_dead: int | None = None
        self.requests_at_repair = 0

    async def strike(self) -> None:
        """Kill it."""
        self.cluster.kill_node(self.victim)

    async def detected(self) -> bool:
        """Return whether another node calls it dead; what its engine gets from then on comes through the others."""
        dead = (await self.cluster.member(self.observer, self.victim)).get("state") == "dead"
        if dead:
            self.requests_when_dead = await self.cluster.engine_requests(self.victim)
        return dead

    async def repair(self) -> None:
        """Start it again."""
        if self.victim not in self.cluster.running():
            with contextlib.suppress(ChaosError):
                self.requests_at_repair = await self.cluster.engine_requests(self.victim)
            self.cluster.start_node(self.victim)

    def problems(self) -> list[str]:
        """Return whether the engine got nothing to do meanwhile, or had to be started anew."""
        found = []
        if self.requests_when_dead is not None and self.requests_at_repair <= self.requests_when_dead:
            found.append("the engine got no requests while its node process was dead")
        if not self.engine.is_running() or self.cluster.engine(self.victim).pid != self.engine.pid:
            found.append("the engine was not adopted but started anew")
        return found


class PowerOff(Fault):
    """A machine loses its power: it falls silent at once, with all its processes."""

    name: ClassVar[str] = "node powered off"
    meaning: ClassVar[str] = (
        "The node's link goes down, then all its processes are killed, so that nobody gets so much as "
        "a reset. (On loopback they are only killed.) Load enters through the other nodes. Noticed: "
        "another node calls it dead. After 6 s power returns and `shoal serve` starts; recovery is "
        "counted from there."
    )
    entries: ClassVar[tuple[int, ...]] = OTHERS
    hold: ClassVar[float | None] = 6.0

    async def strike(self) -> None:
        """Pull the cable and kill everything."""
        engine = self.cluster.engine(self.victim)
        family = [engine, *engine.children(recursive=True)]
        if isinstance(self.cluster.network, Namespaces):
            self.cluster.network.plug(self.victim, into=False)
        self.cluster.kill_node(self.victim)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    async def detected(self) -> bool:
        """Return whether another node calls it dead."""
        return (await self.cluster.member(self.observer, self.victim)).get("state") == "dead"

    async def repair(self) -> None:
        """Switch it on."""
        if isinstance(self.cluster.network, Namespaces):
            self.cluster.network.plug(self.victim, into=True)
        if self.victim not in self.cluster.running():
            self.cluster.start_node(self.victim)


class WorkerKilled(Fault):
    """One of two gateway workers of a node is killed."""

    name: ClassVar[str] = "gateway worker killed"
    meaning: ClassVar[str] = (
        "`kill -9` of one of a node's two gateway workers. Its own clients lose their connections, "
        "which no server can prevent: these are counted apart; *failed* and *broken* are those of all "
        "other clients. Noticed: the node does not list that worker any more. Recovered: another one "
        "listens in its place."
    )
    settings: ClassVar[dict[str, object]] = {"gateway": {"workers": 2}}

    async def begin(self) -> None:
        """Pick the worker."""
        workers = (await self.cluster.status(self.victim))["workers"]
        self.worker = psutil.Process(workers[self.trial % len(workers)]["pid"])

    async def strike(self) -> None:
        """Kill it, and excuse the requests that it carries."""
        ports = clients_of(self.worker.pid, self.cluster.addresses[self.victim][1])
        self.worker.kill()
        for request in self.requests:
            if request.ended is None and request.entry == self.victim and request.port in ports:
                request.excused = True

    async def detected(self) -> bool:
        """Return whether the node knows that it is gone."""
        workers = (await self.cluster.status(self.victim)).get("workers", [])
        return bool(workers) and all(w["pid"] != self.worker.pid for w in workers)

    async def recovered(self) -> bool:
        """Return whether another one is in its place."""
        return await self.detected() and await self.cluster.full()


def clients_of(pid: int, port: int) -> set[int]:
    """Return the TCP ports of the clients that a process serves on its own `port`.

    From /proc/PID/net, because the process may live in another network namespace (psutil looks into ours).
    """
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(descriptor))  # noqa: PTH115 (it is no path)
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        local, remote, inode = (line.split()[i] for i in (1, 2, 9))  # proc(5)
        if f"socket:[{inode}]" in sockets and int(local.rpartition(":")[2], 16) == port:
            found.add(int(remote.rpartition(":")[2], 16))
    return found - {0}
