from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.sim import Sim, end_helpers

DEADLINE = 10.0


@pytest.fixture
def family(start_sim: Callable[..., Sim]) -> Iterator[Sim]:
    sim = start_sim("--spawn-children", "3")
    state = sim.state()
    yield sim
    end_helpers(state)


def gone(pids: list[int]) -> bool:
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.01)
    return False


def test_helpers_are_a_tree_with_shared_memory_and_a_session_of_its_own(family: Sim) -> None:
    state = family.state()
    core, first, last = (psutil.Process(pid) for pid in state["children"])
    assert core.ppid() == family.process.pid
    assert first.ppid() == last.ppid() == core.pid
    assert os.getsid(first.pid) == os.getsid(family.process.pid)
    assert os.getsid(last.pid) == last.pid
    assert state["segment"].startswith("/dev/shm/psm_")
    for process in (core, first, last):
        assert any(mapped.path == state["segment"] for mapped in process.memory_maps())


def test_a_graceful_end_takes_the_helpers_along(family: Sim) -> None:
    state = family.state()
    assert family.stop() == 0
    assert gone(state["children"])
    assert not Path(state["segment"]).exists()


def test_a_killed_engine_leaves_helpers_and_memory_behind(family: Sim) -> None:
    state = family.state()
    family.process.kill()
    family.process.wait()
    assert all(psutil.pid_exists(pid) for pid in state["children"])
    assert Path(state["segment"]).exists()


def test_an_engine_without_its_core_is_not_healthy_and_leaves_its_workers(family: Sim) -> None:
    core, *workers = family.state()["children"]
    os.kill(core, signal.SIGKILL)
    give_up = time.monotonic() + DEADLINE
    while family.http.get("/health").status_code == 200:
        assert time.monotonic() < give_up
    assert all(psutil.pid_exists(pid) for pid in workers)
