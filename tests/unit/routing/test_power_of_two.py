"""Power of two choices."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from shoal.routing.power_of_two import PowerOfTwo
from shoal.routing.table import EngineTarget
from support.asks import ASK


def engines(weights: list[float]) -> tuple[EngineTarget, ...]:
    return tuple(EngineTarget(id=f"e{n}", slot=n, host="h", port=1, weight=w) for n, w in enumerate(weights))


def test_the_most_loaded_engine_gets_nothing_and_the_least_loaded_most():
    policy, candidates = PowerOfTwo(random.Random(1)), engines([1.0] * 4)
    picks = Counter(policy.pick(candidates, [0, 1, 2, 3], ASK) for _ in range(6000))
    assert [picks[n] / 6000 for n in range(4)] == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0], abs=0.03)


def test_of_two_equal_ones_each_gets_half():
    policy = PowerOfTwo(random.Random(1))
    picks = Counter(policy.pick(engines([1.0, 1.0]), [5, 5], ASK) for _ in range(2000))
    assert picks[0] == pytest.approx(1000, abs=100)


def test_weights_count():
    policy = PowerOfTwo(random.Random(1))
    assert {policy.pick(engines([1.0, 4.0]), [2, 5], ASK) for _ in range(20)} == {1}


def test_a_single_engine_is_picked():
    assert PowerOfTwo().pick(engines([1.0]), [7], ASK) == 0


def test_simultaneous_arrivals_at_many_gateways_do_not_herd():
    picks = Counter(
        PowerOfTwo(random.Random(n)).pick(engines([1.0] * 4), [0, 1, 1, 1], ASK) for n in range(400)
    )
    assert max(picks.values()) < 250
