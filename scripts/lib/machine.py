"""What this machine has: GPUs that vLLM can use, memory, disk. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3

# What vLLM's ready-made packages are built for: CUDA 13, which knows GPUs from Turing (7.5) on and comes with
# driver 580.
_OLDEST_CAPABILITY = (7, 5)
_OLDEST_DRIVER = 580


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as ``nvidia-smi`` tells of it: compute capability as (major, minor), driver's major version."""

    name: str
    capability: tuple[int, int]
    driver: int


def parse_gpus(text: str) -> list[Gpu]:
    """Return the GPUs in the output of `query_gpus`' command; lines that are not about a GPU are passed over."""
    gpus = []
    for line in text.splitlines():
        fields = [f.strip() for f in line.split(",")]
        try:
            name, capability, driver = fields
            major, minor = capability.split(".")
            gpus.append(Gpu(name, (int(major), int(minor)), int(driver.split(".")[0])))
        except ValueError:
            continue
    return gpus


def query_gpus() -> list[Gpu]:
    """Return this machine's NVIDIA GPUs, [] without any or without a working driver."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout)


def choose_engine(gpus: Sequence[Gpu]) -> tuple[str, str]:
    """Return which build of vLLM fits, ``vllm`` or ``cpu``, and why, as a part of a sentence."""
    if not gpus:
        return "cpu", "no NVIDIA GPU found"
    fitting = [g for g in gpus if g.capability >= _OLDEST_CAPABILITY]
    if not fitting:
        return "cpu", f"{gpus[0].name} is too old for this vLLM (compute capability below 7.5)"
    if fitting[0].driver < _OLDEST_DRIVER:
        driver = fitting[0].driver
        return "cpu", f"{fitting[0].name} has driver {driver}, this vLLM needs {_OLDEST_DRIVER} or newer"
    many = f" and {len(fitting) - 1} more" if len(fitting) > 1 else ""
    return "vllm", f"found {fitting[0].name}{many}"


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes that new processes can take without swapping: what the kernel says, or less in a container.

    Args:
        root: where ``proc`` and ``sys`` are, for tests.
    """
    amounts = [_meminfo_available(root / "proc/meminfo")]
    version2, version1 = root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"
    for folder, limit, used, cache in (
        (version2, "memory.max", "memory.current", "inactive_file"),
        (version1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        amount = _cgroup_available(folder / limit, folder / used, folder / "memory.stat", cache)
        if amount is not None:
            amounts.append(amount)
    return min(amounts)


def _meminfo_available(path: Path) -> int:
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup_available(limit: Path, used: Path, stat: Path, cache: str) -> int | None:
    """Return what a cgroup leaves, None without a limit. File pages it could drop count as free, as in meminfo."""
    try:
        most = int(limit.read_text())
        pages = dict(line.split() for line in stat.read_text().splitlines())
        return max(0, most - int(used.read_text()) + int(pages.get(cache, 0)))
    except (OSError, ValueError):  # no cgroup of this version, or "max"
        return None


def engines_that_fit(available: int, each: int, wanted: int) -> int:
    """Return how many engines of `each` bytes fit into `available` bytes, at most `wanted`."""
    return max(0, min(wanted, available // each))
