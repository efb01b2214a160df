from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.engine.machine import this_machine

KIB = 1024


def make(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_is_that_of_the_smallest_numa_node(tmp_path: Path) -> None:
    make(
        tmp_path,
        **{
            "proc/meminfo": "MemTotal:       900 kB\n",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:        500 kB\n",
            "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal:        400 kB\n",
            "sys/devices/system/node/node2/meminfo": "Node 2 MemTotal:        0 kB\n",
        },
    )
    assert this_machine(root=tmp_path).memory == 400 * KIB


@pytest.mark.parametrize(
    ("file", "limit", "memory"),
    [
        ("sys/fs/cgroup/memory.max", "1024\n", 1024),
        ("sys/fs/cgroup/memory.max", "max\n", 900 * KIB),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048\n", 2048),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2**63 - 4096}\n", 900 * KIB),
    ],
)
def test_memory_is_limited_by_the_container(tmp_path: Path, file: str, limit: str, memory: int) -> None:
    make(tmp_path, **{"proc/meminfo": "MemTotal:       900 kB\n", file: limit})
    assert this_machine(root=tmp_path).memory == memory


def test_cores_are_those_we_may_use_within_the_containers_quota(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert this_machine(root=tmp_path).cores == allowed
    assert this_machine(root=make(tmp_path, **{"sys/fs/cgroup/cpu.max": "100000 100000\n"})).cores == 1
    assert this_machine(root=make(tmp_path, **{"sys/fs/cgroup/cpu.max": "max 100000\n"})).cores == allowed


def test_this_machine_has_memory_and_cores() -> None:
    machine = this_machine(engines=3)
    assert machine.memory > 100 * KIB * KIB
    assert machine.cores >= 1
    assert machine.engines == 3


def test_a_compiler_is_found_through_cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not this_machine().cxx
    compiler = tmp_path / "icpx"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "icpx")
    assert this_machine().cxx
