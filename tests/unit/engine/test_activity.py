"""Computing, waiting and stopped processes told apart, with real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shoal.engine import gpu, tree
from shoal.engine.activity import Activity
from shoal.engine.record import Record
from support.wait import wait_until

pytestmark = pytest.mark.alone

WAIT = "import time; time.sleep(60)"
BURN = "while True: pass"


@contextmanager
def running(*programs: str) -> Iterator[list[int]]:
    processes = [subprocess.Popen([sys.executable, "-S", "-c", program]) for program in programs]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def record(pids: list[int]) -> Record:
    members = tuple(p.ident for pid in pids if (p := tree.process(pid)) is not None)
    return Record(
        id="m-0",
        model="m",
        kind="vllm",
        served_name="m",
        host="127.0.0.1",
        port=1,
        gpus=(0,),
        parts={},
        fingerprint="f",
        marker="k",
        log="/dev/null",
        boot="b",
        leader=members[0],
        members=members,
    )


def at_work(pid: int, program: str) -> bool:
    process = tree.process(pid)
    return process is not None and (process.cpu > 20 if program == BURN else process.state == "S")


def computes(*programs: str, silent: bool = False, stop: bool = False) -> bool:
    """Return what a second look says, half a second after the first."""
    with running(*programs) as pids:
        rec, activity = record(pids), Activity()
        for pid, program in zip(pids, programs, strict=True):
            wait_until(lambda pid=pid, program=program: at_work(pid, program), what="it is at its program")
        if stop:
            os.kill(pids[-1], signal.SIGSTOP)
        assert not activity.computes(rec, silent=silent), "nothing to compare with yet"
        end = time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > end)
        return activity.computes(rec, silent=silent)


@pytest.mark.parametrize(
    ("programs", "silent", "expected"),
    [
        ((BURN,), True, True),
        ((BURN,), False, False),
        ((WAIT,), False, False),
        ((WAIT, BURN), False, True),
        ((BURN, WAIT), False, False),  # its server is busy with answering, its core does nothing
        ((BURN, WAIT), True, True),
    ],
)
def test_who_burns_processor_time_computes(programs: tuple[str, ...], silent: bool, expected: bool):
    assert computes(*programs, silent=silent) is expected


def test_a_stopped_member_outweighs_those_that_wait_for_it_at_full_speed():
    assert not computes(WAIT, BURN, WAIT, stop=True)


def test_an_engine_that_waits_for_a_busy_gpu_computes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "utilization", lambda indices: 1.0 if list(indices) == [0] else 0.0)
    with running(WAIT) as pids:
        assert Activity().computes(record(pids), silent=False)
