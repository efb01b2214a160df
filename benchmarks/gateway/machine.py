"""This machine: which cores are for whom, what it is called, and how busy others keep it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Placement:
    """Which cores run what. A router gets one core for itself, so that requests/s compare.

    Attributes:
        router: the core of the router that is under load.
        pair: two cores for a router with two workers, empty when there are too few.
        engines: one core per engine.
        load: the load generator's core.
    """

    router: tuple[int, ...]
    pair: tuple[int, ...]
    engines: tuple[tuple[int, ...], tuple[int, ...]]
    load: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """Say who shares with whom."""
        if self.router == self.load:
            return "router, engines and load generator share one core"
        if self.load in self.engines:
            return "the router has a core for itself; the engines and the load generator share another"
        return "router, engines and load generator have cores of their own"


def place(cores: Sequence[int]) -> Placement:
    """Return who runs where on `cores`."""
    if len(cores) == 1:
        one = (cores[0],)
        return Placement(one, (), (one, one), one)
    load, router = (cores[0],), (cores[-1],)
    if len(cores) == 2:
        return Placement(router, (), (load, load), load)
    first, second = (cores[1],), (cores[2] if len(cores) > 4 else cores[1],)
    pair = tuple(cores[-2:]) if len(cores) >= 4 else ()
    return Placement(router, pair, (first, second), load)


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        field, _, value = line.partition(":")
        if field.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.machine()


def describe() -> dict[str, str | int]:
    """Return what a reader has to know about this machine."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": platform.release().split("-")[0],
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "python": platform.python_version(),
    }


def others_seconds() -> float:
    """Return the CPU seconds used so far by all processes but this one and its descendants.

    Processes that have ended count through the parents that waited for them. (The totals of /proc/stat would be
    simpler, but many kernels guess those by sampling, which is far off for processes that sleep and wake often.)
    """
    me = psutil.Process()
    mine = {me.pid, *(child.pid for child in me.children(recursive=True))}
    total = 0.0
    for process in psutil.process_iter():
        if process.pid not in mine:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total
