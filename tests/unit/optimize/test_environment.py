from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shoal.optimize import environment
from shoal.optimize.errors import OptimizeError
from support.wait import wait_until


def test_it_lies_in_the_users_cache_one_for_each_set_of_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setattr(environment.metadata, "version", lambda _: "2.13.0+cpu")
    first = environment.default_directory()
    assert first.parent == Path("/cache/shoal/optimize")
    assert environment.requirements() == ("torch==2.13.0+cpu", environment.COMPRESSOR)
    monkeypatch.setattr(environment.metadata, "version", lambda _: "2.14.0")
    assert environment.default_directory() != first


def test_one_that_is_whole_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "ready").touch()
    assert environment.prepare(tmp_path / "env", lambda _: None) == tmp_path / "env" / "bin" / "python"


def test_without_an_index_the_reason_and_the_way_out_are_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    told: list[str] = []
    wanted = r"could not be installed: .*Check that a package index is reachable"
    with pytest.raises(OptimizeError, match=wanted) as caught:
        environment.prepare(tmp_path / "env", told.append)
    assert "\n" not in str(caught.value)
    assert any("this one time" in line for line in told)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env.lock", "env.log"]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "letters").touch()
    with pytest.raises(OptimizeError, match="is there already and no environment"):
        environment.prepare(tmp_path / "env", lambda _: None)
    assert (tmp_path / "env" / "letters").exists()


_MAKING = """
import signal, sys
from pathlib import Path
from shoal.optimize import environment

signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the commands have it
place = Path(sys.argv[1])
# An installer that has begun, with a process of its own, and does not end.
environment._create = lambda work, log, lock, tell: _never(work, lock)

def _never(work, lock):
    work.mkdir()
    words = ["sh", "-c", f"sleep 600 & echo $! $$ > {work}/pids; wait"]
    with environment._running(words, lock) as process:
        process.wait()

environment.prepare(place, lambda line: None)
"""


@pytest.fixture
def making(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A process that makes an environment, and those that install in it."""
    maker = subprocess.Popen(
        [sys.executable, "-c", _MAKING, str(tmp_path / "env")], stderr=subprocess.DEVNULL
    )
    pids = tmp_path / ".env.new" / "pids"
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), 60, "an installer runs")
    installers = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    yield maker, installers
    maker.kill()
    maker.wait()
    for process in installers:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _run(processes: Iterable[psutil.Process]) -> bool:
    """Return whether any of them still runs; one that waits to be reaped has ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def test_one_that_is_ended_leaves_neither_files_nor_processes(
    tmp_path: Path, making: tuple[subprocess.Popen[bytes], list[psutil.Process]]
) -> None:
    maker, installers = making
    maker.terminate()
    maker.wait(60)
    wait_until(lambda: not _run(installers), 60, "the installers have ended")
    assert [p.name for p in tmp_path.iterdir()] == ["env.lock"]


def test_one_that_was_killed_is_waited_for_and_begun_anew(
    tmp_path: Path,
    making: tuple[subprocess.Popen[bytes], list[psutil.Process]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maker, installers = making
    maker.kill()
    maker.wait()

    def create(work: Path, *_: object) -> None:
        assert not _run(installers)
        assert not work.exists()
        work.mkdir()
        (work / "ready").touch()

    def tell(line: str) -> None:
        if line.startswith("waits for another one"):
            for process in installers:
                process.kill()

    monkeypatch.setattr(environment, "_create", create)
    environment.prepare(tmp_path / "env", tell)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env", "env.lock"]


def test_a_full_disk_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    with pytest.raises(OptimizeError, match=r"takes about 3 GB, 1\.0 GB are free at"):
        environment.prepare(tmp_path / "env", lambda _: None)
