"""Smooth weighted round robin."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.table import EngineTarget
from shoal.routing.weighted_round_robin import WeightedRoundRobin
from support.asks import ASK


def engines(weights: list[float], names: list[str] | None = None) -> list[EngineTarget]:
    names = names or [f"e{n}" for n in range(len(weights))]
    return [
        EngineTarget(id=name, slot=n, host="h", port=1, weight=float(weight))
        for n, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 1000), st.integers(1, 3))
def test_over_a_cycle_each_engine_gets_exactly_its_weight(weights, seed, cycles):
    policy = WeightedRoundRobin(seed)
    candidates = engines(weights)
    for _ in range(cycles):
        picks = Counter(policy.pick(candidates, (), ASK) for _ in range(sum(weights)))
        assert picks == dict(enumerate(weights))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.integers(0, 7))
def test_fractions_are_respected_at_every_moment(weights, seed):
    policy = WeightedRoundRobin(seed)
    candidates, total = engines(weights), sum(weights)
    picks = Counter()
    for turn in range(1, 200):
        picks[policy.pick(candidates, (), ASK)] += 1
        for index, weight in enumerate(weights):
            assert abs(picks[index] - turn * weight / total) <= len(weights)


def test_the_turns_of_a_heavy_engine_are_spread():
    policy = WeightedRoundRobin()
    candidates = engines([5, 1, 1], ["a", "b", "c"])
    assert "".join(candidates[policy.pick(candidates, (), ASK)].id for _ in range(14)) == "aabacaa" * 2


def test_workers_start_with_different_engines():
    firsts = [WeightedRoundRobin(seed).pick(engines([1, 1, 1]), (), ASK) for seed in range(6)]
    assert firsts == [0, 1, 2, 0, 1, 2]


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=60), st.integers(0, 7))
def test_it_goes_on_when_engines_come_and_go(rounds, seed):
    policy = WeightedRoundRobin(seed)
    for names in rounds:
        candidates = engines([ord(name) - 96 for name in sorted(names)], sorted(names))
        assert 0 <= policy.pick(candidates, (), ASK) < len(candidates)


def test_a_newcomer_gets_its_share_and_no_more():
    policy = WeightedRoundRobin()
    for _ in range(1000):
        policy.pick(engines([3, 1], ["a", "b"]), (), ASK)
    picks = Counter(policy.pick(engines([3, 1, 4], ["a", "b", "c"]), (), ASK) for _ in range(80))
    assert picks == pytest.approx({0: 30, 1: 10, 2: 40}, abs=2)


def test_engines_that_are_gone_are_forgotten():
    policy = WeightedRoundRobin()
    for n in range(1000):
        policy.pick(engines([1, 1], [f"x{n}", f"y{n}"]), (), ASK)
    assert len(policy._credit) <= 8
