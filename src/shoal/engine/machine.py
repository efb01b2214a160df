"""What this machine has for engines that run on its CPUs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

_UNLIMITED = 1 << 62
"""cgroup v1 says "no limit" with a number beyond this."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of a machine. Pure data, so that what is made of it can be tested.

    Attributes:
        cores: logical CPUs this process may use.
        memory: bytes of the smallest NUMA node with memory, or the container's limit if that is less.
        engines: engines on the whole machine, those of other nodes included, that share it.
        cxx: a C++ compiler is installed.
    """

    cores: int
    memory: int
    engines: int = 1
    cxx: bool = True


def this_machine(engines: int = 1, root: Path = Path("/")) -> Machine:
    """Look at this machine.

    Args:
        engines: engines that will share it.
        root: where ``proc`` and ``sys`` are found, for tests.
    """
    return Machine(
        cores=_cores(root),
        memory=_memory(root),
        engines=max(1, engines),
        cxx=any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++")),
    )


def _cores(root: Path) -> int:
    allowed = len(os.sched_getaffinity(0))
    quota = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdecimal():
        return max(1, min(allowed, int(quota[0]) // int(quota[1])))
    return allowed


def _memory(root: Path) -> int:
    # vLLM's CPU worker lives on one NUMA node and checks against that one's memory (utils/cpu_resource_utils.py).
    nodes = [_meminfo(file) for file in root.glob("sys/devices/system/node/node*/meminfo")]
    total = min((size for size in nodes if size), default=0) or _meminfo(root / "proc/meminfo")
    for file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(root / file).strip()
        if limit.isdecimal() and int(limit) < _UNLIMITED:
            total = min(total, int(limit)) if total else int(limit)
    return total


def _meminfo(file: Path) -> int:
    found = re.search(r"MemTotal:\s+(\d+) kB", _read(file))
    return int(found[1]) * 1024 if found else 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
