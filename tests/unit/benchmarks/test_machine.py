import subprocess
import sys

import psutil
import pytest
from benchmarks.gateway.machine import Placement, cpu_model, describe, others_seconds, place


def test_one_core_is_shared_by_all() -> None:
    assert place([3]) == Placement((3,), (), ((3,), (3,)), (3,))
    assert "share one core" in place([3]).sentence


def test_with_two_cores_the_router_has_one_for_itself() -> None:
    assert place([0, 1]) == Placement((1,), (), ((0,), (0,)), (0,))
    assert "a core for itself" in place([0, 1]).sentence


@pytest.mark.parametrize("count", [3, 4, 5, 8, 64])
def test_with_more_cores_nobody_is_on_the_routers(count: int) -> None:
    placement = place(range(count))
    taken = {*placement.router, *placement.pair}
    assert len(placement.router) == 1
    assert not taken & {*placement.load, *placement.engines[0], *placement.engines[1]}
    assert "of their own" in placement.sentence


def test_two_workers_get_two_cores_only_where_the_rest_has_two_more() -> None:
    assert place(range(3)).pair == ()
    assert len(set(place(range(4)).pair)) == 2


def test_five_cores_give_each_engine_its_own() -> None:
    first, second = place(range(5)).engines
    assert first != second


def test_the_processors_name_comes_from_cpuinfo() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: A: Fast One\n") == "A: Fast One"
    assert cpu_model("processor\t: 0\n")


def test_a_machine_is_described() -> None:
    assert describe()["cores"]


def test_what_a_child_of_this_process_does_is_not_others_work() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        times = psutil.Process(child.pid).cpu_times()
        assert times.user + times.system >= 0.3
        with_child = sum(sum(p.info["cpu_times"][:4]) for p in psutil.process_iter(["cpu_times"]))
        assert others_seconds() <= with_child - 0.3
    finally:
        child.communicate(b"\n")
