from __future__ import annotations

from typing import Any

import pytest

from shoal.sim.options import parse
from shoal.sim.place import Place, PlaceError, execute_timeout


def place(**more: Any) -> Place:
    return Place(**{"nnodes": 2, "rank": 0, "master_addr": "127.0.0.1", "master_port": 1} | more)


def test_workers_are_dealt_out_in_order_and_named_as_vllms() -> None:
    sizes = {"tensor_parallel": 2, "pipeline_parallel": 2}
    assert place(**sizes).workers == ("Worker_PP0_TP0", "Worker_PP0_TP1")
    assert place(rank=1, **sizes).workers == ("Worker_PP1_TP0", "Worker_PP1_TP1")
    assert place(rank=1, tensor_parallel=2).workers == ("Worker_TP1",)
    assert place(rank=1, pipeline_parallel=2).workers == ("Worker_PP1",)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"tensor_parallel": 3}, "evenly divide the total world size \\(3\\)"),
        ({"tensor_parallel": 2, "rank": 2}, "between 0 and 1; got 2"),
        ({"tensor_parallel": 2, "rank": -1}, "between 0 and 1; got -1"),
    ],
)
def test_what_vllm_refuses_is_refused(sizes: dict[str, int], why: str) -> None:
    with pytest.raises(PlaceError, match=why):
        place(**sizes)


def test_the_time_for_a_step_is_vllms_variable() -> None:
    assert execute_timeout({}) == 300
    assert execute_timeout({"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "0.5"}) == 0.5
    with pytest.raises(PlaceError, match="is not a number: soon"):
        execute_timeout({"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "soon"})


def test_a_place_is_read_from_vllms_arguments() -> None:
    line = "-n 2 -r 1 --headless -tp 2 --master-addr 10.0.0.1 --master-port 4000"
    found = parse([*line.split(), "--distributed-timeout-seconds", "7", "--no-follower-outlives-leader"], {})
    assert found.place == place(
        rank=1,
        master_addr="10.0.0.1",
        master_port=4000,
        tensor_parallel=2,
        join_timeout=7,
        outlives_leader=False,
    )
    assert found.ignored == ()
    assert parse(["-tp", "2"], {}).place is None
