"""The shared map."""

from __future__ import annotations

import os

import pytest

from shoal.gateway import counters
from shoal.gateway.counters import (
    NO_MODEL,
    SLOTS,
    Cell,
    InFlight,
    SharedMetrics,
    engine_block,
    model_block,
)
from shoal.gateway.outcomes import count


@pytest.fixture
def fd():
    fd = counters.create(3)
    yield fd
    os.close(fd)


def test_load_adds_up_all_workers_and_other_nodes(fd):
    ours, theirs = InFlight(fd, 3), InFlight(fd, 3)
    for index in range(3):
        ours.row(index)[7] += index + 1
    ours.set_remote({7: 10, 8: 1, SLOTS - 1: 5})
    assert (theirs.load(7), theirs.load(8), theirs.load(SLOTS - 1), theirs.load(0)) == (16, 1, 5, 0)
    assert theirs.local(7) == 6
    ours.set_remote({8: 2})
    assert (theirs.load(7), theirs.load(8), theirs.load(SLOTS - 1)) == (6, 2, 0)


def test_the_row_of_a_dead_worker_can_be_cleared(fd):
    in_flight = InFlight(fd, 3)
    for index in range(3):
        in_flight.row(index)[5] = 4
    in_flight.clear(1)
    assert (in_flight.load(5), in_flight.row(1).tolist()) == (8, [0] * SLOTS)


def test_cells_do_not_overlap(fd):
    in_flight, metrics = InFlight(fd, 3), SharedMetrics(fd, 3)
    rows = [in_flight.row(index) for index in range(4)]
    for worker in range(3):
        rows += [metrics.row(worker), metrics.engine_requests(worker), metrics.engine_faults(worker)]
        rows += [metrics.waiting(worker), metrics.outcomes(worker)]
    rows.append(metrics.elsewhere)
    for number, row in enumerate(rows):
        row[:] = memoryview(b"".join(number.to_bytes(8, "little") for _ in range(len(row)))).cast("q")
    for number, row in enumerate(rows):
        assert set(row.tolist()) == {number}


def test_outcomes_sum_over_workers_and_blocks_do_not_overlap(fd):
    metrics = SharedMetrics(fd, 3)
    blocks = [engine_block(0), engine_block(SLOTS - 1), model_block(0), model_block(SLOTS - 1), NO_MODEL]
    for number, block in enumerate(blocks):
        for worker in range(3):
            for _ in range(number):
                count(metrics.outcomes(worker), block, 200, False, 1_000_000_000)
    found = [metrics.outcome(block) for block in blocks]
    assert [o.answers.get(("200", False), 0) for o in found] == [0, 3, 6, 9, 12]
    assert [o.whole.total for o in found] == [0, 3, 6, 9, 12]


def test_totals_sum_over_workers(fd):
    metrics = SharedMetrics(fd, 3)
    for worker in range(3):
        row = metrics.row(worker)
        row[Cell.REQUESTS] += 1  # 2xx
        row[Cell.REQUESTS + 5] += worker  # 4xx streamed
        row[Cell.RETRIES] += 2
        row[Cell.OPEN_CONNECTIONS] += 7
        metrics.engine_requests(worker)[4] += 10
        metrics.engine_faults(worker)[4] += worker
        InFlight(fd, 3).row(worker)[4] = 1
    totals = metrics.totals()
    assert (totals.requests["2xx", False], totals.requests["4xx", True], totals.requests["5xx", True]) == (
        3,
        3,
        0,
    )
    assert (totals.retries, totals.open_connections, totals.open_requests, totals.stale_retries) == (
        6,
        21,
        3,
        0,
    )
    assert metrics.per_engine(4) == (30, 3)
    metrics.reset_gauges(1)
    assert (metrics.totals().open_connections, metrics.totals().retries) == (14, 6)


def test_what_waits_is_seen_by_all_and_goes_with_its_worker(fd):
    metrics = SharedMetrics(fd, 3)
    for worker in range(3):
        metrics.waiting(worker)[9] = worker
    assert SharedMetrics(fd, 3).waiting_column(9).tolist() == [0, 1, 2]
    metrics.reset_gauges(2)
    assert metrics.waiting_column(9).tolist() == [0, 1, 0]
