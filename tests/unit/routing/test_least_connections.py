"""Least connections."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.least_connections import LeastConnections
from shoal.routing.table import EngineTarget
from support.asks import ASK


def engines(weights: list[float]) -> tuple[EngineTarget, ...]:
    return tuple(
        EngineTarget(id=f"e{n}", slot=n, host="h", port=1, weight=weight) for n, weight in enumerate(weights)
    )


loads = st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 50)), min_size=1, max_size=20)


@given(loads, st.integers(0, 100))
def test_the_least_loaded_for_its_weight_is_picked(candidates, seed):
    weights, in_flight = zip(*candidates, strict=True)
    picked = LeastConnections(seed).pick(engines(list(weights)), list(in_flight), ASK)
    costs = [(load + 1) / weight for weight, load in candidates]
    assert costs[picked] == min(costs)


@given(st.integers(1, 10), st.integers(0, 100))
def test_equal_engines_take_turns(count, seed):
    policy, candidates = LeastConnections(seed), engines([1.0] * count)
    picks = [policy.pick(candidates, [3] * count, ASK) for _ in range(count)]
    assert sorted(picks) == list(range(count))


def test_turns_are_fair_while_one_engine_is_busy():
    policy, candidates = LeastConnections(), engines([1.0] * 3)
    picks = Counter(policy.pick(candidates, [0, 0, 9], ASK) for _ in range(100))
    assert picks == {0: 50, 1: 50}


def test_simultaneous_arrivals_at_several_workers_do_not_herd():
    """Eight workers that all see the same, stale counts."""
    workers = [LeastConnections(seed) for seed in range(8)]
    picks = Counter(worker.pick(engines([1.0] * 4), [2] * 4, ASK) for worker in workers for _ in range(4))
    assert picks == dict.fromkeys(range(4), 8)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 5.0]])
def test_under_load_work_is_shared_by_weight(weights):
    policy, candidates, chance = LeastConnections(), engines(weights), random.Random(3)
    in_flight, total = [0] * 3, Counter()
    for _ in range(20_000):
        index = policy.pick(candidates, in_flight, ASK)
        in_flight[index] += 1
        total[index] += 1
        if sum(in_flight) > 80:
            done = chance.choices(range(3), in_flight)[0]
            in_flight[done] -= 1
    shares = [load / sum(in_flight) for load in in_flight]
    assert shares == pytest.approx([weight / sum(weights) for weight in weights], abs=0.03)


@given(st.lists(loads, min_size=1, max_size=20), st.integers(0, 100))
def test_it_goes_on_when_engines_come_and_go(rounds, seed):
    policy = LeastConnections(seed)
    for candidates in rounds:
        weights, in_flight = zip(*candidates, strict=True)
        assert 0 <= policy.pick(engines(list(weights)), list(in_flight), ASK) < len(candidates)


def test_a_changed_weight_is_noticed():
    policy = LeastConnections()
    assert policy.pick(engines([1.0, 1.0]), [3, 1], ASK) == 1
    assert policy.pick(engines([9.0, 1.0]), [3, 1], ASK) == 0
