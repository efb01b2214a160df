"""Faults of one engine. The victims take turns; load enters through all nodes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import ClassVar

import psutil

from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.faults.base import LAST, NODES, Detection, Fault


class _EngineFault(Fault):
    """Something that an engine does not survive: noticed when it is out of rotation, over when a new one is in it."""

    async def begin(self) -> None:
        """Note the engine and its helper processes."""
        self.victim = self.trial % NODES
        self.instance = await self.cluster.instance(self.observer, self.victim)
        self.leader = self.cluster.engine(self.victim)
        self.family = [self.leader, *self.leader.children(recursive=True)]

    async def detected(self) -> bool:
        """Return whether another node does not route to it any more."""
        found = await self.cluster.instance(self.observer, self.victim)
        return found is not None and found != self.instance

    async def recovered(self) -> bool:
        """Return whether another engine stands in its place."""
        found = await self.cluster.instance(self.observer, self.victim)
        return bool(found) and found != self.instance and await self.cluster.full()

    def problems(self) -> list[str]:
        """Return which helper processes were left behind."""
        left = sum(map(_alive, self.family))
        return [f"{left} processes of the engine were left behind"] if left else []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class EngineKilled(_EngineFault):
    """Kill -9."""

    name: ClassVar[str] = "engine killed"
    meaning: ClassVar[str] = (
        "`kill -9` of an engine's main process; its helper processes live on until Shoal ends them. "
        "Noticed: a surviving node does not route to it any more. Recovered: a new engine in its "
        "place is ready on every node."
    )

    async def strike(self) -> None:
        """Kill it."""
        self.leader.kill()


class EngineHung(_EngineFault):
    """SIGSTOP: everything stays open and nothing moves."""

    name: ClassVar[str] = "engine hung"
    meaning: ClassVar[str] = (
        "`SIGSTOP` of an engine's main process: connections stay open, nothing comes. Noticed and "
        "recovered as above; when its streams move is in the column *longest pause*."
    )

    async def strike(self) -> None:
        """Stop it."""
        self.leader.send_signal(signal.SIGSTOP)

    async def repair(self) -> None:
        """Let it go on, if it still is there."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.leader.send_signal(signal.SIGCONT)


class EngineCoreDead(_EngineFault):
    """The engine core dies as vLLM's does: errors inside streams, then the port closes, then exit code 0."""

    name: ClassVar[str] = "engine core dead"
    meaning: ClassVar[str] = (
        "The engine core dies in the way measured on vLLM 0.32: an error event inside every stream, "
        "the port closes 0.1 s later, the process exits 2.5 s later with code 0. Noticed and "
        "recovered as above."
    )

    async def strike(self) -> None:
        """Order it."""
        await self.cluster.fault(self.victim, {"kind": "core"})


class CrashLoop(Fault):
    """One engine crashes at every start."""

    name: ClassVar[str] = "crash loop"
    meaning: ClassVar[str] = (
        "For 8 s every new process of one engine is killed as soon as it is seen. Noticed: a "
        "surviving node does not route to it. Recovery is counted from the end of the crashes and "
        "includes the back-off that has grown by then."
    )
    hold: ClassVar[float | None] = 8.0
    detection: ClassVar[Detection] = Detection.STATUS

    async def begin(self) -> None:
        """Note the engine."""
        self.victim = LAST
        self._killer: asyncio.Task[None] | None = None

    async def strike(self) -> None:
        """Kill the engine and whatever takes its place."""
        self.cluster.engine(self.victim).kill()
        self._killer = asyncio.create_task(self._kill())

    async def _kill(self) -> None:
        while True:
            with contextlib.suppress(ChaosError, psutil.NoSuchProcess):
                self.cluster.engine(self.victim).kill()
            await asyncio.sleep(0.05)

    async def detected(self) -> bool:
        """Return whether another node does not route to it."""
        return await self.cluster.instance(self.observer, self.victim) == ""

    async def repair(self) -> None:
        """Let it live."""
        if self._killer is not None:
            self._killer.cancel()
