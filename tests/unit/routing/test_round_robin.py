"""Round robin."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.round_robin import RoundRobin
from shoal.routing.table import EngineTarget
from support.asks import ASK


def engines(count: int) -> list[EngineTarget]:
    return [EngineTarget(id=f"e{n}", slot=n, host="h", port=1, weight=n + 1.0) for n in range(count)]


@given(st.integers(1, 20), st.integers(0, 1000), st.integers(1, 10))
def test_each_engine_gets_the_same_whatever_its_weight(count, seed, rounds):
    policy = RoundRobin(seed)
    picks = [policy.pick(engines(count), (), ASK) for _ in range(count * rounds)]
    assert Counter(picks) == dict.fromkeys(range(count), rounds)
    assert picks[:count] == [(seed + turn) % count for turn in range(count)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=50), st.integers(0, 100))
def test_it_goes_on_when_engines_come_and_go(counts, seed):
    policy = RoundRobin(seed)
    for count in counts:
        assert 0 <= policy.pick(engines(count), (), ASK) < count
