import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lib import cluster as module
from lib.cluster import Cluster
from support.processes import runs
from support.wait import wait_until

# Stands in for `shoal serve --local`: starts a helper in a session of its own, as engines are, and ends on SIGINT.
FAKE = """
import pathlib, signal, subprocess, sys, time
helper = "import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", helper], start_new_session=True)
print(f"helper {child.pid}", flush=True)
print("half a line", end="", flush=True)
if "die" in sys.argv[-1]:
    sys.exit(2)
while True:
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        sys.exit(0)
"""


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> tuple[Cluster, psutil.Process]:
    package = tmp_path / "shoal"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "serve.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cluster = Cluster(Path(config), tmp_path, {})
    output = wait_until(cluster.new_output, what="the fake cluster's first line")
    return cluster, psutil.Process(int(output.split()[1]))


def test_stopping_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, helper = start(tmp_path, monkeypatch, "x.yaml")
    assert not cluster.ended()
    cluster.stop()
    assert cluster.process.returncode == 0
    wait_until(lambda: not runs(helper))


def test_nodes_that_end_by_themselves_are_noticed_and_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, helper = start(tmp_path, monkeypatch, "die.yaml")
    wait_until(cluster.ended)
    assert "half a line" in cluster.last_lines()
    assert cluster.new_output() == ""  # a line is shown when it is whole
    cluster.stop()
    wait_until(lambda: not runs(helper))


def test_nodes_stop_when_the_demo_is_killed(tmp_path: Path) -> None:
    nodes = "import time; time.sleep(600)"
    parent = f"""
import subprocess, sys, time
sys.path.insert(0, {str(Path(module.__file__).parent.parent)!r})
from lib.cluster import _stop_with_parent
child = subprocess.Popen([sys.executable, "-c", {nodes!r}], preexec_fn=_stop_with_parent)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    wait_until(lambda: not runs(child))
