import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from benchmarks.gateway.processes import Command, Running, clean, own_seconds, used

from support.wait import wait_until

BURN = "import time\nwhile time.process_time() < 0.5: pass\n"
# A parent that waits for a child that burns and ends, then starts one that stays, and says so.
PARENT = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}])
stays = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", stays.pid, flush=True)
time.sleep(60)
"""


def test_a_tree_is_charged_for_children_that_have_ended_and_ends_with_those_that_live(tmp_path: Path) -> None:
    running = Running("tree", Command([sys.executable, "-c", PARENT]), [*os.sched_getaffinity(0)], tmp_path)
    try:
        wait_until(lambda: "ready" in running.last_words(), 20)
        usage = running.usage()
        assert usage.cpu >= 0.45
        assert usage.memory > 2 * 4e6
        stays = int(running.last_words().split()[1])
    finally:
        running.stop()
    assert running.ended()
    wait_until(lambda: not psutil.pid_exists(stays), 5)  # whoever inherits it has to reap it
    assert running.usage().cpu == 0


def test_a_program_that_has_ended_tells_its_last_words(tmp_path: Path) -> None:
    program = "print('one'); print(); print('two'); print('three'); print('four'); raise SystemExit(3)"
    running = Running("short", Command([sys.executable, "-c", program]), [*os.sched_getaffinity(0)], tmp_path)
    wait_until(running.ended, 10)
    assert running.last_words() == "two / three / four"
    running.stop()


def test_only_shoals_workers_count_as_such(tmp_path: Path) -> None:
    program = "print('up', flush=True); import time; time.sleep(60)"
    arguments = [sys.executable, "-c", program, "shoal.gateway"]
    running = Running("worker", Command(arguments), [*os.sched_getaffinity(0)], tmp_path)
    try:
        wait_until(lambda: running.last_words() == "up", 10)
        assert running.worker_usage().memory == pytest.approx(running.usage().memory, rel=0.2)
    finally:
        running.stop()
    assert used([]).memory == 0


def test_a_program_stays_on_its_cores_and_sees_its_variables(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    program = "import os; print(os.sched_getaffinity(0), os.environ['MARK'], os.environ.get('http_proxy'))"
    running = Running("cores", Command([sys.executable, "-c", program], {"MARK": "here"}), [core], tmp_path)
    wait_until(running.ended, 10)
    assert running.last_words() == f"{{{core}}} here None"
    running.stop()


def test_programs_are_spared_our_proxies_and_modules() -> None:
    given = {"HOME": "/x", "PYTHONPATH": "y", "https_proxy": "p", "HTTP_PROXY": "p", "NO_PROXY": "*"}
    assert clean(given) == {"HOME": "/x"}


def test_cpu_time_is_finer_than_the_kernels_ticks() -> None:
    before = own_seconds(os.getpid())
    while own_seconds(os.getpid()) == before:
        sum(range(100))
    assert own_seconds(os.getpid()) - before < 0.005, "seconds; a tick has 0.01"
    assert own_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.005)


def test_the_clock_of_a_process_that_has_ended_says_so() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(psutil.NoSuchProcess):
        own_seconds(child.pid)
