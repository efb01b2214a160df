"""The map of caches and work that a node's workers share."""

from __future__ import annotations

import os
import random

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway import affinity
from shoal.gateway.affinity import Affinity


def new(workers: int = 2, memory: int = 1 << 20) -> Affinity:
    fd = affinity.create(workers, memory)
    try:
        return Affinity(fd, workers)
    finally:
        os.close(fd)


def test_work_of_workers_and_other_nodes_adds_up():
    shared = new()
    shared.work_row(0)[7] += 100
    shared.work_row(1)[7] += 20
    shared.set_remote({7: 3, 8: 1})
    assert (sum(shared.work(7)), shared.local(7), sum(shared.work(8))) == (123, 120, 1)
    shared.set_remote({})
    shared.clear(0)
    assert (sum(shared.work(7)), sum(shared.work(8))) == (20, 0)


def test_what_engines_say_is_there_by_slot_until_they_say_something_else():
    shared = new()
    shared.set_engines({3: (1, 2, 900), 5: (0, 0, 10)})
    assert (shared.outside[3], shared.waiting[3], shared.kv_permille[3], shared.kv_permille[5]) == (
        1,
        2,
        900,
        10,
    )
    shared.set_engines({5: (4, 0, 0)})
    assert (shared.outside[3], shared.waiting[3], shared.kv_permille[3], shared.outside[5]) == (0, 0, 0, 4)


def test_processes_with_the_descriptor_see_the_same():
    fd = affinity.create(1, 1 << 20)
    one, other = Affinity(fd, 1), Affinity(fd, 1)
    os.close(fd)
    one.table.put((5, 6), 1, 1)
    one.work_row(0)[2] = 9
    assert other.table.match((5, 6), 1).blocks(1) == 2
    assert sum(other.work(2)) == 9


records = st.lists(
    st.tuples(st.integers(0, 1023), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300))
)


@given(st.lists(st.tuples(st.integers(0, 1), records), max_size=6))
def test_news_of_every_worker_is_heard_once_and_in_order(rounds):
    shared = new()
    tellers, listen = [shared.teller(0), shared.teller(1)], shared.listener()
    for worker, told in rounds:
        for slot, hashes in told:
            tellers[worker](slot, hashes)
        assert list(listen()) == told
    assert list(listen()) == []


def test_news_nobody_listened_to_is_overwritten_and_what_is_heard_is_right():
    shared, rng = new(), random.Random(1)
    tell, listen = shared.teller(0), shared.listener()
    heard = 0
    for _ in range(300):
        told = [(rng.randrange(1024), [rng.getrandbits(64) for _ in range(rng.randint(1, 400))])
                for _ in range(rng.choice((1, 20, 300)))]  # fmt: skip
        for slot, hashes in told:
            tell(slot, hashes)
        got = list(listen())
        heard += len(got)
        assert all(record in told for record in got)
    assert heard > 1000
    tell(1, list(range(100_000)))  # more than there is room for: left out
    assert list(listen()) == []
    tell(1, [5])
    assert list(listen()) == [(1, [5])]


def test_memory_is_taken_as_prompts_come_and_never_more_than_the_setting():
    shared, rng = new(memory=16 << 20), random.Random(1)
    process = psutil.Process()
    before = process.memory_info().rss
    table = shared.table
    for now in range(1, 20_001):
        table.put([rng.getrandbits(64) for _ in range(60)], 1, now)
    grown = process.memory_info().rss - before
    assert table.entries == pytest.approx((16 << 20) / 24, rel=0.01)
    assert grown < 20 << 20
