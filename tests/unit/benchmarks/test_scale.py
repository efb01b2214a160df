"""What bench-scale measures with, and how it tells."""

import pytest
from benchmarks.scale.cluster import configuration, names, view
from benchmarks.scale.measure import MeshCost, OneCost, free_names, one
from benchmarks.scale.report import Row, markdown
from benchmarks.scale.table import table_cost

MACHINE = {"cpu": "a", "cores": 2, "memory_gb": 8, "system": "b", "kernel": "6", "python": "3.11"}


def test_a_cluster_for_measuring_is_one() -> None:
    everybody = names([12000, 12001])
    assert [n.name for n in configuration(everybody).nodes] == everybody
    assert len(list(view(everybody).engines())) == 2


def test_a_larger_table_is_larger() -> None:
    small, large = (table_cost(names(list(range(12000, 12000 + n))), 1) for n in (2, 16))
    assert 0 < small.size < large.size < 100_000
    assert large.make > 0 and large.push > 0


@pytest.mark.long  # two processes that have to import everything first
def test_one_node_hears_its_peers() -> None:
    cost = one(4, busy=True, seconds=1.0)
    assert cost.complete and cost.traffic and cost.heartbeat
    assert cost.received > 4  # 3 peers, 2 heartbeats and 20 more datagrams a second; a busy machine is slower


def test_results_as_text() -> None:
    quiet, busy = OneCost(1.5, 6, 6, 900, 0, True), OneCost(20.0, 66, 66, 1000, 400, False)
    assert quiet.bytes_per_second == 5400
    assert round(busy.bytes_per_second) == 30_000
    rows = [
        Row(4, MeshCost(0.8, 6, 1.5, 1.8), quiet, busy, table_cost(free_names(2), 1)),
        Row(128, None, quiet, busy, table_cost(free_names(2), 1)),
        Row(64, MeshCost(0.8, 6, None, None), quiet, busy, table_cost(free_names(2), 1)),
    ]
    text = markdown(rows, MACHINE, "2026-01-02")
    assert "| 4 | 1.5 ms/s | 20 ms/s | 5.4 | 30.0 | 66 | 1,000 B |" in text
    assert "0.8 ms/s | 1.50 s | 1.80 s |" in text
    assert "| not within 20 s | not within 20 s |" in text
    assert "With 4, 128, 64 nodes the one that was measured did not see all of the others" in text
