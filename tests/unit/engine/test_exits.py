from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys

import pytest

from shoal.engine import tree
from shoal.engine.exits import Exit, child_status, out_of_memory_kills, stranger_status
from support.wait import wait_until
from unit.engine.fakes import alive

LINUX = tuple(int(part) for part in platform.release().split(".")[:2])

ENDS = [
    pytest.param("import sys; sys.exit(0)", Exit(code=0), id="code 0"),
    pytest.param("import sys; sys.exit(7)", Exit(code=7), id="code 7"),
    pytest.param("import os; os.kill(os.getpid(), 9)", Exit(signal=9), id="SIGKILL"),
    pytest.param(
        "import os, signal; os.kill(os.getpid(), signal.SIGABRT)", Exit(signal=signal.SIGABRT), id="SIGABRT"
    ),
]


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (Exit(code=0), "exited with code 0"),
        (Exit(code=1), "exited with code 1"),
        (Exit(signal=9), "was killed by SIGKILL"),
        (Exit(signal=11), "was killed by SIGSEGV"),
        (Exit(signal=63), "was killed by signal 63"),
        (Exit(), "exited with a code that is not known"),
        (
            Exit(signal=9, out_of_memory=True),
            "was killed by SIGKILL (the kernel was ending processes for lack of memory)",
        ),
        (Exit(code=0, out_of_memory=True), "exited with code 0"),
    ],
    ids=str,
)
def test_an_end_reads_as_a_sentence(end: Exit, sentence: str) -> None:
    assert str(end) == sentence


def spawn(code: str) -> tuple[int, int]:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", code], os.environ)
    return pid, os.pidfd_open(pid)


@pytest.mark.parametrize(("code", "expected"), ENDS)
def test_a_childs_end_is_known(code: str, expected: Exit) -> None:
    _, pidfd = spawn(code)
    select.select([pidfd], [], [])
    assert child_status(pidfd) == expected
    assert child_status(pidfd) is None  # collected already
    os.close(pidfd)


def test_a_child_that_runs_has_no_status() -> None:
    pid, pidfd = spawn("import time; time.sleep(600)")
    assert child_status(pidfd) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(pidfd)


@pytest.mark.parametrize(("code", "expected"), ENDS)
def test_a_zombies_end_is_known_without_collecting_it(code: str, expected: Exit) -> None:
    pid, pidfd = spawn(code)
    found = tree.process(pid)
    assert found is not None
    wait_until(lambda: not alive(pid), every=0.002)
    assert stranger_status(pidfd, found.ident) == expected
    os.waitpid(pid, 0)
    os.close(pidfd)


@pytest.mark.skipif(LINUX < (6, 15), reason="the kernel keeps no status behind a pidfd before 6.15")
@pytest.mark.parametrize(("code", "expected"), ENDS)
def test_the_end_of_a_process_that_somebody_else_collected_is_known(code: str, expected: Exit) -> None:
    pid, pidfd = spawn(code)
    found = tree.process(pid)
    assert found is not None
    os.waitpid(pid, 0)
    assert stranger_status(pidfd, found.ident) == expected
    os.close(pidfd)


def test_the_end_of_a_process_that_runs_is_not_known() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        pidfd = os.pidfd_open(other.pid)
        found = tree.process(other.pid)
        assert found is not None
        assert stranger_status(pidfd, found.ident) == Exit()
        other.kill()
        os.close(pidfd)


def test_the_kernels_count_of_processes_killed_for_memory_can_be_read() -> None:
    assert out_of_memory_kills() >= 0
