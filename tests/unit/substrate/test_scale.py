"""How many engines a model should have: examples, and what must hold whatever comes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from shoal.config.replicas import Replicas
from shoal.substrate.scale import Demand, Scale, quantile, start, step

SETTINGS = Replicas(min=1, max=4, queue=4, ttft=2.0, up_after=10, down_after=60)


def run(
    scale: Scale, demands: list[tuple[float, Demand]], settings: Replicas = SETTINGS
) -> tuple[Scale, list[str]]:
    said = []
    for now, demand in demands:
        scale, why = step(scale, settings, demand, now)
        said += [why] if why else []
    return scale, said


def test_begins_with_what_there_is_within_the_bounds() -> None:
    assert [start((1, 4), found).engines for found in (0, 2, 9)] == [1, 2, 4]


def test_a_long_queue_starts_more_once_it_has_lasted() -> None:
    busy = Demand(ready=1, waiting=5)
    assert run(Scale(engines=1), [(0, busy), (9.9, busy)])[0].engines == 1
    scale, said = run(Scale(engines=1), [(0, busy), (10, busy)])
    assert (scale.engines, said) == (2, ["5 requests wait for 1 engine (`replicas.queue` is 4)"])


def test_a_queue_that_was_gone_meanwhile_begins_anew() -> None:
    busy, calm = Demand(ready=1, waiting=5), Demand(ready=1, waiting=4)
    assert run(Scale(engines=1), [(0, busy), (5, calm), (6, busy), (15.9, busy)])[0].engines == 1


def test_a_very_long_queue_doubles_them_and_no_more() -> None:
    flood = Demand(ready=2, waiting=1000)
    assert run(Scale(engines=2), [(0, flood), (10, flood)])[0].engines == 4
    assert run(Scale(engines=2), [(0, flood), (10, flood)], Replicas(min=1, max=9))[0].engines == 4


def test_late_first_tokens_start_more_too() -> None:
    late = Demand(ready=1, ttft=2.5)
    scale, said = run(Scale(engines=1), [(0, late), (10, late)])
    assert (scale.engines, said) == (2, ["first tokens take 2.5 s (`replicas.ttft` is 2 s)"])


def test_nobody_asks_for_more_before_those_asked_for_are_there() -> None:
    busy = Demand(ready=1, waiting=99)
    assert run(Scale(engines=2), [(0, busy), (100, busy), (1000, busy)])[0].engines == 2


def test_one_less_at_a_time_after_it_was_enough_for_long() -> None:
    calm = Demand(ready=3, running=1, capacity=8)
    scale, said = run(Scale(engines=3), [(0, calm), (59, calm), (60, calm)])
    assert (scale.engines, said) == (2, ["one less was enough for 60 s"])
    assert run(scale, [(61, calm), (119, calm)])[0].engines == 2


def test_what_one_less_could_not_run_keeps_all() -> None:
    for demand in (
        Demand(ready=2, running=6, capacity=8),  # more than 70 % of what one runs
        Demand(ready=2, waiting=1),
        Demand(ready=2, ttft=1.5),  # not half of what is allowed
        Demand(ready=1),  # the second is not there yet
    ):
        assert run(Scale(engines=2), [(0, demand), (1000, demand)])[0].engines == 2


def test_new_bounds_hold_at_once() -> None:
    scale, said = run(Scale(engines=4), [(0, Demand(ready=4))], Replicas(min=1, max=2))
    assert (scale.engines, said) == (2, ["`replicas` allows 1 to 2"])
    assert run(Scale(engines=1), [(0, Demand(ready=1))], Replicas(min=3))[0].engines == 3


def test_quantiles() -> None:
    assert quantile((1.0, 2.0), (0, 0, 0), 0.9) is None
    assert quantile((1.0, 2.0), (9, 1, 0), 0.9) == 1.0
    assert quantile((1.0, 2.0), (8, 2, 0), 0.9) == 2.0
    assert quantile((1.0, 2.0), (0, 0, 1), 0.9) == math.inf


DEMANDS = st.builds(
    Demand,
    ready=st.integers(0, 9),
    waiting=st.integers(0, 200),
    running=st.integers(0, 200),
    capacity=st.integers(0, 50),
    ttft=st.none() | st.floats(0, 100),
)


@given(
    st.integers(1, 5),
    st.integers(0, 5),
    st.lists(st.tuples(st.floats(0.1, 100), DEMANDS), max_size=40),
    st.floats(0, 30),
    st.floats(30, 300),
)
def test_whatever_comes(
    least: int, more: int, demands: list[tuple[float, Demand]], up_after: float, down_after: float
) -> None:
    settings = Replicas(min=least, max=least + more, ttft=1.0, up_after=up_after, down_after=down_after)
    scale, now, changed = start((least, least + more)), 0.0, 0.0
    for passed, demand in demands:
        now += passed
        before = scale.engines
        scale, why = step(scale, settings, demand, now)
        assert least <= scale.engines <= least + more
        assert bool(why) == (scale.engines != before)
        assert not (scale.above is not None and scale.below is not None)  # never both ways
        if scale.engines > before:
            assert demand.ready >= before and now - changed >= up_after
            assert scale.engines <= max(2 * before, before + 1)
        if scale.engines < before:
            assert scale.engines == before - 1 and now - changed >= down_after and demand.waiting == 0
        changed = now if why else changed


@given(DEMANDS, st.integers(1, 4))
def test_steady_demand_comes_to_rest(demand: Demand, engines: int) -> None:
    """With the same demand on each engine that is there, the number goes one way only, and then stays."""
    scale, numbers = Scale(engines=engines), [engines]
    for second in range(0, 2000, 5):
        seen = Demand(
            ready=scale.engines, waiting=demand.waiting, running=demand.running, capacity=demand.capacity
        )
        scale, _ = step(scale, SETTINGS, seen, float(second))
        numbers.append(scale.engines)
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
    assert len(set(numbers[-200:])) == 1
