"""Limits of keys: the arithmetic of buckets, and what several workers of a node grant together."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway import counters
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.keys import MAX_KEYS, Key
from shoal.gateway.limits import MINUTE, MOST_DEBT, Limiter, duration, left, spend, wait_for

SECOND = 1_000_000_000
rates = st.integers(1, 1_000_000_000)


@given(rates, st.integers(0, 10**18))
def test_a_bucket_that_was_never_used_is_full(rate: int, now: int):
    assert left(0, now, rate) == rate
    assert wait_for(0, now, rate, rate) <= 0


@given(rates, st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.integers(1, 10_000)), max_size=60))
def test_what_is_granted_never_exceeds_a_full_bucket_and_what_has_come_in_since(rate: int, asked):
    """The sum over any stretch of time, which is what a limit promises."""
    now, full, granted = MINUTE, 0, []
    for pause, units in asked:
        now += pause
        if wait_for(full, now, units, rate) <= 0:
            full = spend(full, now, units, rate)
            granted.append((now, units))
    for i, (start, _) in enumerate(granted):
        total = 0
        for at, units in granted[i:]:
            total += units
            assert total <= rate + (at - start) * rate // MINUTE + len(granted)  # rounding: less than 1 each


@given(rates, st.integers(1, 1000), st.integers(0, MINUTE))
def test_who_waits_as_long_as_told_gets_in(rate: int, units: int, spent: int):
    units = min(units, rate)
    now, full = MINUTE, MINUTE + spent
    wait = wait_for(full, now, units, rate)
    if wait > 0:
        assert wait_for(full, now + wait - 1, units, rate) > 0
        now += wait
    assert wait_for(full, now, units, rate) <= 0
    assert left(full, now, rate) >= units - 1  # rounding


@given(rates, st.integers(0, 10_000_000))
def test_a_debt_is_paid_off_in_time_and_fits_its_cell(rate: int, units: int):
    full = 0
    for _ in range(20):
        full = spend(full, MINUTE, units, rate)
    assert 0 <= full <= MINUTE + MOST_DEBT < 2**63
    assert left(full, full, rate) == rate


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (-5, "0ms"), (0, "0ms"), (1, "1ms"), (17 * 10**6, "17ms"), (SECOND, "1s"), (1200 * 10**6, "1.2s"),
        (MINUTE, "1m0s"), (6 * MINUTE, "6m0s"), (MINUTE + 90 * 10**6, "1m0.09s"), (999_999_999, "1s"),
    ],
)  # fmt: skip
def test_times_are_written_as_openai_does(ns: int, text: str):
    assert duration(ns) == text


class Node:
    """Some workers of one node and their shared cells."""

    def __init__(self, workers: int = 2) -> None:
        fd = counters.create(workers, size(workers))
        self.now = 1000 * SECOND
        self.cells = KeyCells(fd, workers)
        self.in_flight = counters.InFlight(fd, workers)
        self.metrics = counters.SharedMetrics(fd, workers)
        self.workers = [Limiter(KeyCells(fd, workers), i, lambda: self.now) for i in range(workers)]
        os.close(fd)


def key(**limits: int) -> Key:
    return Key(name="k", digest=b"", slot=limits.pop("slot", 7), **limits)


def headers(answer) -> dict[str, str]:
    pairs = (line.decode().split(": ", 1) for line in answer.headers)
    return dict(pairs)


def test_requests_a_minute_hold_for_all_workers_together():
    node, limited = Node(), key(requests_per_minute=6)
    for n in range(6):
        assert node.workers[n % 2].enter(limited) is None
        node.workers[n % 2].leave(limited)
    refused = node.workers[0].enter(limited)
    assert refused.status == 429
    assert headers(refused) == {
        "retry-after": "10",
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    node.now += 10 * SECOND
    assert node.workers[1].enter(limited) is None
    assert node.workers[0].enter(limited) is not None


def test_a_refused_request_costs_nothing():
    node, limited = Node(), key(requests_per_minute=1, max_concurrent=1)
    assert node.workers[0].enter(limited) is None
    before = node.cells.requests_full[7]
    for _ in range(100):
        assert node.workers[1].enter(limited).status == 429
    assert node.cells.requests_full[7] == before
    assert node.cells.totals(7) == (1, 0, 1)


def test_tokens_are_charged_afterwards_and_a_debt_is_paid_first():
    node, limited = Node(), key(tokens_per_minute=600)
    assert node.workers[0].enter(limited) is None
    assert node.workers[1].enter(limited) is None, "nothing is charged yet"
    node.workers[0].charge(limited, 900)
    refused = node.workers[1].enter(limited)
    assert headers(refused)["retry-after"] == "31", "300 of debt at 10 a second, and one token to begin with"
    assert headers(refused)["x-ratelimit-remaining-tokens"] == "0"
    assert headers(refused)["x-ratelimit-reset-tokens"] == "1m30s"
    node.now += 31 * SECOND
    assert node.workers[1].enter(limited) is None


def test_concurrent_requests_hold_for_all_workers_and_other_nodes():
    node, limited = Node(), key(max_concurrent=3)
    assert node.workers[0].enter(limited) is None
    assert node.workers[1].enter(limited) is None
    node.cells.open(2)[7] = 1  # through another node
    refused = node.workers[1].enter(limited)
    assert (refused.status, headers(refused)) == (429, {"retry-after": "1"})
    node.workers[0].leave(limited)
    assert node.workers[1].enter(limited) is None


def test_a_worker_that_dies_takes_its_open_requests_along():
    node, limited = Node(), key(max_concurrent=1)
    assert node.workers[0].enter(limited) is None
    node.cells.clear_open(0)
    assert node.workers[1].enter(limited) is None


def test_keys_do_not_share_cells_with_each_other_or_with_the_counters():
    node = Node()
    first, last = key(slot=0, requests_per_minute=2), key(slot=MAX_KEYS - 1, tokens_per_minute=2)
    for limited in (first, last):
        assert node.workers[1].enter(limited) is None
    node.workers[1].charge(last, 5)
    assert node.cells.totals(0) == (1, 0, 1)
    assert node.cells.totals(MAX_KEYS - 1) == (1, 5, 1)
    assert node.cells.requests_full[MAX_KEYS - 1] == node.cells.tokens_full[0] == 0
    assert sum(node.in_flight.row(0).tolist() + node.in_flight.row(2).tolist()) == 0
    assert node.metrics.totals().open_requests == 0
    node.in_flight.row(2)[:] = memoryview(bytearray(b"\1" * 8 * counters.SLOTS)).cast("q")
    assert node.cells.totals(0) == (1, 0, 1)


def test_a_key_without_limits_has_no_headers_and_no_end():
    node, free = Node(), key()
    for _ in range(1000):
        assert node.workers[0].enter(free) is None
    assert node.workers[0].header_lines(free) == ()
