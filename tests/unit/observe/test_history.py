"""Samples of a node, and what the cluster's charts make of them."""

import pytest

from shoal.observe.history import KEPT, STEP, Counters, Ring, Sample, points, quantile, sample

BOUNDS = (0.1, 0.2, 0.4)


def test_a_sample_is_what_came_between_two_looks():
    before = Counters(
        tokens={"a 1": 100}, requests=5, failed=1, first=(1, 0, 0, 0), cpu=(10.0, 100.0), kv_usage=(0.5,)
    )
    now = Counters(
        tokens={"a 1": 160},
        prompt_tokens={"a 1": 7},
        requests=9,
        failed=1,
        first=(1, 2, 0, 1),
        cpu=(15.0, 110.0),
        memory=0.25,
        kv_usage=(0.75,),
        waiting=3,
        open=4,
        gpu=0.5,
    )
    assert sample(before, now, 2.0, 7) == Sample(
        step=7,
        tokens=30.0,
        requests=2.0,
        first={1: 2, 3: 1},
        cpu=0.5,
        memory=0.25,
        kv_usage=(0.75,),
        waiting=3,
        open=4,
        gpu=0.5,
    )


def test_an_engine_that_starts_anew_or_ends_makes_no_leap():
    before = Counters(tokens={"a 1": 1000, "b 1": 500}, requests=10)
    now = Counters(tokens={"a 2": 3, "b 1": 510}, requests=4)  # a gateway's counts may shrink, too
    assert sample(before, now, 1.0, 1).tokens == 10.0
    assert sample(before, now, 1.0, 1).requests == 0.0


def test_a_ring_keeps_a_quarter_of_an_hour_and_no_step_twice():
    ring = Ring()
    for step in [1, 2, 2, 1, *range(3, KEPT + 10)]:
        ring.add(Sample(step=step))
    assert KEPT * STEP == 900
    assert [one.step for one in ring.after(KEPT + 5)] == [KEPT + 6, KEPT + 7, KEPT + 8, KEPT + 9]
    assert len(ring.after(-1)) == KEPT
    assert ring.last == KEPT + 9
    assert Ring().last == -1


@pytest.mark.parametrize(
    ("counts", "q", "value"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 0.05),
        ({1: 10}, 1.0, 0.2),
        ({0: 5, 2: 5}, 0.75, 0.3),
        ({3: 2}, 0.5, 0.4),
        ({0: 1, 3: 1}, 0.99, 0.4),
    ],
)
def test_quantiles_are_those_of_prometheus(counts, q, value):
    found = quantile(BOUNDS, counts, q)
    assert found == (value if value is None else pytest.approx(value))


def test_points_add_up_nodes_and_take_percentiles_over_all_requests():
    a = [Sample(step=5, tokens=10, first={0: 99}, kv_usage=(0.2,), cpu=0.5, memory=0.1), Sample(step=6)]
    b = [Sample(step=5, tokens=5, first={2: 1}, kv_usage=(0.4, 0.9), waiting=2, open=3, gpu=0.7)]
    first, second = points({"a:1": a, "b:1": b}, BOUNDS)
    assert (first.t, second.t) == (5 * STEP, 6 * STEP)
    assert (first.tokens, first.waiting, first.open) == (15, 2, 3)
    assert first.kv == pytest.approx(0.5)
    assert first.kv_max == 0.9
    assert first.p50 == pytest.approx(0.1 * 50 / 99)
    assert first.p99 == pytest.approx(0.1)
    assert first.nodes == {"a:1": (0.5, 0.1, None), "b:1": (0.0, 0.0, 0.7)}
    assert (second.p50, second.nodes) == (None, {"a:1": (0.0, 0.0, None)})
