from benchmarks.chaos.results import Row
from benchmarks.chaos.soak import Memory, Soak, lines

GROWN = Memory("node 0, gateway worker 0", [1, 1, 1], [30.0, 40.0, 50.0])
FLAT = Memory("node 0, node process", [2, 2, 2], [60.0, 61.0, 60.5])
REPLACED = Memory("node 2, engine (simulated)", [3, 4, 5], [30.0, 31.0, 60.0])


def test_memory_is_flat_when_one_process_did_not_grow() -> None:
    assert FLAT.flat
    assert not GROWN.flat
    assert REPLACED.flat  # there is nothing to compare it with
    assert not REPLACED.stayed


def test_the_result_names_faults_counts_and_every_process() -> None:
    row = Row("shoal", "random faults", requests=4321, broken=2, reasons={"broken: cut": 2})
    row.problem("engine hung: not at full strength")
    text = "\n".join(lines(Soak(600, row, {"engine killed": 9}, [FLAT, GROWN, REPLACED])))
    assert "600 s at 50 concurrent requests: 9 x engine killed." in text
    assert "4,321 requests: 0 failed, 2 broken streams, 0 with wrong bytes." in text
    assert "| node 0, node process | 60.0 | 61.0 | 60.5 | flat |" in text
    assert "| 50.0 | **grew** |" in text
    assert "| 60.0 | replaced meanwhile |" in text
    assert "- engine hung: not at full strength" in text
