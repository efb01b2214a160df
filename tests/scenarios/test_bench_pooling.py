"""The benchmark of embeddings, with simulated engines: that it runs, drains, asks and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.rare
@pytest.mark.timeout(300)
def test_embeddings_are_measured_directly_and_through_one_and_two_engines() -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "scripts"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pooling", "--sim"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for row in ("| one engine, asked directly | 1 |", "| Shoal, 1 engine | 8 |", "| Shoal, 2 engines | 8 |"):
        assert row in done.stdout
