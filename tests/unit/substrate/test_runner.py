"""The actor on each node of Ray, without Ray: how it starts a node, and what it knows when it is started again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from shoal.config import load
from shoal.substrate import local
from shoal.substrate.ray_api import document_of
from shoal.substrate.runner import Runner
from support.configs import config
from support.processes import runs
from support.wait import wait_until

TEXT = "nodes: [{host: x, port: 8000}]\nmodel: {path: m, engine: sim, env: {HOW: '$${literal}'}}\nstate_dir: %s\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Take down what would be started; this process stands for the node."""
    found: list[list[str]] = []

    def start(arguments: list[str], log: Path, environment: Mapping[str, str]) -> int:
        assert environment[local.MARK] == "ray"
        found.append(arguments)
        return os.getpid()

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(local, "is_node", lambda pid, name: pid == os.getpid() and bool(name))
    return found


def runner(directory: Path, up: str = "one") -> Runner:
    return Runner(document_of(config(TEXT % directory)), up, "a" * 56, "2.60.0")


def test_a_node_is_started_once_with_a_file_of_its_own(tmp_path: Path, started: list[list[str]]) -> None:
    tested = runner(tmp_path)
    assert tested.report() == {"name": "", "runs": False, "said": None}
    for _ in range(2):
        assert tested.serve("127.0.0.1:8000", "127.0.0.2:8000") == ""
    (words,) = started
    assert words[2:] == ["--node", "127.0.0.1:8000", "--join", "127.0.0.2:8000"]
    made = load(Path(words[1])).config
    assert [n.name for n in made.nodes] == ["127.0.0.1:8000"]
    assert made.models[0].env == {"HOW": "${literal}"}
    assert Path(words[1]).stat().st_mode & 0o077 == 0  # it may hold the secret


def test_one_that_is_started_again_knows_its_node(tmp_path: Path, started: list[list[str]]) -> None:
    runner(tmp_path).serve("127.0.0.1:8000", "")
    again = runner(tmp_path)
    assert again.report()["name"] == "127.0.0.1:8000" and again.report()["runs"]
    again.serve("127.0.0.1:8000", "")
    assert len(started) == 1
    assert runner(tmp_path, "another").report()["name"] == ""


def test_what_another_cluster_has_left_does_not_hold(tmp_path: Path, started: list[list[str]]) -> None:
    state = tmp_path / "127.0.0.1_8000"
    state.mkdir()
    left = [state / name for name in ("agreed.json", "allotted.json")]
    for file in left:
        file.write_text("{}")
    runner(tmp_path).serve("127.0.0.1:8000", "")
    assert not any(file.exists() for file in left)
    assert (state / "up").read_text() == "one"


def test_orders_to_a_node_that_does_not_run_say_so(tmp_path: Path) -> None:
    tested = runner(tmp_path)
    assert [tested.leave(), tested.forget("x:1"), tested.allot({}, [])] == ["there is no node here"] * 3


def test_a_node_is_nobodys_child_and_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import time; time.sleep(60)" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    pid = local.start(["--node", "some:1"], tmp_path / "log", dict(os.environ))
    process = psutil.Process(pid)
    try:
        wait_until(lambda: local.is_node(pid, "some:1"), 20, "it is there")
        assert not local.is_node(pid, "other:1")
        assert process.ppid() != os.getpid()
    finally:
        process.kill()
    wait_until(lambda: not runs(process), 20, "it is gone")
    assert not local.is_node(pid, "some:1")
