"""A cluster on real Ray with the simulated engine: what `shoal up` starts on a `RayCluster`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.cluster import Cluster, Json
from support.processes import runs
from support.ray_cluster import RayCluster

UP = 240.0  # seconds that may pass on a busy machine until something has come up


def require_ray() -> None:
    """Skip the test without Ray; fail it where what is real is required."""
    if importlib.util.find_spec("ray") is None:
        if os.environ.get("SHOAL_TEST_REAL") == "required":
            pytest.fail("Ray is not installed, and SHOAL_TEST_REAL=required")
        pytest.skip("Ray is not installed: pip install 'shoal[ray]'")


def shoal(*words: str, deadline: float = UP) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal", *words],
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
        env=os.environ | {"RAY_ADDRESS": "", "COLUMNS": "200"},
    )


def process_of(ray: RayCluster, is_it: Callable[[psutil.Process], bool]) -> psutil.Process:
    return next(p for p in ray.processes() if runs(p) and is_it(p))


class OnRay(Cluster):
    """A cluster that Ray's nodes carry; its nodes are those of Ray, by number."""

    def __init__(self, directory: Path, ray: RayCluster, model: Mapping[str, Any], **cluster: Any) -> None:
        super().__init__(
            directory,
            1,
            model={"path": "sim-model", "engine": "sim", **model},
            cluster={"name": f"test{os.getpid()}", **cluster},
        )
        self.ray = ray
        self.names = [f"{ray.host(i)}:{self.ports[0]}" for i in range(4)]

    def up(self) -> None:
        """Start it, and wait until its nodes and engines are there."""
        words = ("up", str(self.path), "--on", "ray", "--address", self.ray.address, "--wait", str(UP))
        begun = shoal(*words, deadline=2 * UP)
        assert begun.returncode == 0, begun.stdout + begun.stderr

    def down(self) -> None:
        """End it."""
        ended = shoal("down", str(self.path), "--on", "ray", "--address", self.ray.address)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def left(self) -> list[list[str]]:
        """Return the command lines of nodes and engines that run."""
        lines = [p.cmdline() for p in self.ray.processes() if runs(p)]
        return [line for line in lines if {"shoal.serve", "shoal.sim"} & set(line)]

    def statuses(self) -> list[Json]:
        return [s for i in range(4) if (s := self.status(i))]

    def ready(self) -> list[str]:
        return self.ready_engines(0)

    def alive(self, seen_by: int = 0) -> set[str]:
        members = self.status(seen_by).get("members", [])
        return {m["name"] for m in members if m["state"] == "alive"}
