from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import shoal.sim

SCRIPT = Path(shoal.sim.__file__).with_name("helper.py")


def test_a_core_says_what_it_made_and_cleans_it_up() -> None:
    command = [sys.executable, "-S", str(SCRIPT), "EngineCore", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as core:
        assert core.stdout is not None
        segment, *workers = core.stdout.readline().split()
        assert Path(segment).exists()
        assert len(workers) == 2
        assert Path(f"/proc/{core.pid}/comm").read_text().strip() == "SIM::EngineCore"
        core.terminate()
        assert core.wait(10) == 0
    assert not Path(segment).exists()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
