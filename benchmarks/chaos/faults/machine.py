"""Faults of a machine around a node: its disk, its clock."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults.base import LAST, Detection, Fault
from benchmarks.gateway.install import UnavailableError, compiled

_DISK = "4m"  # size of the tmpfs; records and logs of a node take some kilobytes
_HOUR = 3600.0


def _filler(cluster: Cluster) -> Path:
    return cluster.node_state_dir(LAST) / "filler"


class DiskFull(Fault):
    """No byte is free any more where a node keeps its state."""

    name: ClassVar[str] = "disk full"
    meaning: ClassVar[str] = (
        "The last node's state directory, a file system of its own (tmpfs), is full for 6 s. Load "
        "enters through all nodes. There is nothing that has to be noticed. Recovery is counted from "
        "the repair."
    )
    detection: ClassVar[Detection] = Detection.NOTHING
    hold: ClassVar[float | None] = 6.0
    root: ClassVar[bool] = True

    @classmethod
    def prepare(cls, cluster: Cluster, cache: Path, stack: ExitStack) -> None:
        """Mount the small disk."""
        del cache
        directory = cluster.node_state_dir(LAST)
        directory.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0700", "shoal-chaos", str(directory)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UnavailableError(f"no tmpfs can be mounted: {done.stderr.strip()}")
        stack.callback(subprocess.run, ["umount", "--lazy", str(directory)], check=False)

    async def strike(self) -> None:
        """Fill it."""
        with _filler(self.cluster).open("wb", buffering=0) as file:
            for size in (1 << 16, 1):  # to the last byte
                with contextlib.suppress(OSError):
                    while True:
                        _write(file.fileno(), b"\0" * size)

    async def repair(self) -> None:
        """Make room."""
        _filler(self.cluster).unlink(missing_ok=True)


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) < len(data):
        raise OSError(errno.ENOSPC, "full")


class DiskFullEngineKilled(DiskFull):
    """The disk is full, and then the engine dies too."""

    name: ClassVar[str] = "disk full, engine killed"
    meaning: ClassVar[str] = (
        "The same, and the node's engine is killed meanwhile. Noticed: a surviving node does not "
        "route to it. Recovery is counted from the repair; an engine that was started again before it "
        "counts as 0 s."
    )
    detection: ClassVar[Detection] = Detection.STATUS

    async def begin(self) -> None:
        """Note the engine."""
        self.instance = await self.cluster.instance(self.observer, self.victim)

    async def strike(self) -> None:
        """Fill the disk, then kill."""
        engine = self.cluster.engine(self.victim)
        await super().strike()
        engine.kill()

    async def detected(self) -> bool:
        """Return whether another node does not route to it any more."""
        found = await self.cluster.instance(self.observer, self.victim)
        return found is not None and found != self.instance

    async def recovered(self) -> bool:
        """Return whether another engine stands in its place."""
        found = await self.cluster.instance(self.observer, self.victim)
        return bool(found) and found != self.instance and await self.cluster.full()

    def problems(self) -> list[str]:
        """Return whether the new engine is one that the next node process would not know."""
        known = self.cluster.record(self.victim)
        engine = self.cluster.engine(self.victim)
        if known is not None and known.leader is not None and known.leader.pid == engine.pid:
            return []
        return ["the engine started while the disk was full is not on record: it would not be adopted"]


class ClockJump(Fault):
    """The wall clock of one machine jumps by an hour: forward in one trial, back in the next."""

    name: ClassVar[str] = "clock jump"
    meaning: ClassVar[str] = (
        "The wall clock of all processes of the last node jumps by an hour while they run, forward "
        "and back in turns (a preloaded shim over `clock_gettime`, `gettimeofday` and `time`; "
        "monotonic clocks go on, as on a machine whose clock is set). After 6 s it jumps back. Load "
        "enters through all nodes. There is nothing that has to be noticed. Recovery is counted from "
        "the second jump."
    )
    detection: ClassVar[Detection] = Detection.NOTHING
    hold: ClassVar[float | None] = 6.0

    @classmethod
    def prepare(cls, cluster: Cluster, cache: Path, stack: ExitStack) -> None:
        """Compile the shim and give it to the node."""
        del stack
        with (cache / "install.log").open("a") as log:
            shim = compiled("clock", cache, log, folder=Path(__file__).parents[1], flags=["-shared", "-fPIC"])
        _set_clock(cluster, 0.0)
        cluster.environment[LAST] = {"LD_PRELOAD": str(shim), "CHAOS_CLOCK": str(_clock(cluster))}

    async def strike(self) -> None:
        """Jump."""
        _set_clock(self.cluster, _HOUR if self.trial % 2 == 0 else -_HOUR)

    async def repair(self) -> None:
        """Jump back."""
        _set_clock(self.cluster, 0.0)


def _clock(cluster: Cluster) -> Path:
    return cluster.state_dir.parent / "clock"


def _set_clock(cluster: Cluster, shift: float) -> None:
    # In place: the file is mapped by running processes.
    with open(os.open(_clock(cluster), os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:  # noqa: PTH123
        file.write(struct.pack("d", shift))
