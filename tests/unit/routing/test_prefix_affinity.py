"""Prefix affinity."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.loads import NoLoads
from shoal.routing.prefix_affinity import ALWAYS, MISS, REQUEST, SPREAD, PrefixAffinity
from shoal.routing.prefix_table import PrefixTable
from shoal.routing.table import EngineTarget
from support.asks import FakeAsk

IDLE = [0, 0, 0, 0]


def engines(count: int = 4, weights: list[float] | None = None) -> tuple[EngineTarget, ...]:
    weights = weights or [1.0] * count
    return tuple(
        EngineTarget(id=f"node{n}:8000/m-0", slot=n, host="h", port=1, weight=weight)
        for n, weight in enumerate(weights)
    )


def table(entries: int = 20_000) -> PrefixTable:
    return PrefixTable(memoryview(bytearray(8 * (PrefixTable.smallest + 3 * entries))).cast("Q"))


def policy(shared: PrefixTable | None = None, loads: NoLoads | None = None, seed: int = 0) -> PrefixAffinity:
    return PrefixAffinity(seed, shared or table(), loads or NoLoads())


def text(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size // 2).hex().encode()


def test_the_next_turns_of_a_conversation_go_where_the_first_one_went():
    affinity, candidates = policy(), engines()
    for conversation in range(50):
        prompt = text(conversation, 1000)
        first = affinity.pick(candidates, IDLE, FakeAsk(prompt))
        for turn in range(1, 5):
            prompt += text((conversation, turn), 400)
            assert affinity.pick(candidates, IDLE, FakeAsk(prompt)) == first


def test_conversations_are_spread():
    affinity, candidates = policy(), engines()
    picks = Counter(affinity.pick(candidates, IDLE, FakeAsk(text(n, 1000))) for n in range(400))
    assert all(70 <= picks[index] <= 130 for index in range(4))


def test_work_that_is_missing_is_told_to_the_request():
    affinity, candidates = policy(), engines()
    first, second = FakeAsk(text("a", 8192)), FakeAsk(text("a", 8192) + b"x" * 100)
    affinity.pick(candidates, IDLE, first)
    affinity.pick(candidates, IDLE, second)
    assert (first.work, second.work) == (8192, 100)


def test_a_prefix_is_given_up_when_waiting_for_it_costs_more():
    affinity, candidates = policy(), engines()
    prompt = text("a", 4096)
    home = affinity.pick(candidates, IDLE, FakeAsk(prompt))
    busy = MISS * 4096 // REQUEST

    def pick(load: int) -> int:
        in_flight = [20] * 4
        in_flight[home] += load
        return affinity.pick(candidates, in_flight, FakeAsk(prompt))

    assert pick(busy - 1) == home
    assert pick(busy + 1) != home


@given(st.lists(st.integers(0, 60), min_size=2, max_size=16), st.integers(0, 15), st.integers(0, 200_000))
def test_an_engine_above_its_limit_gets_nothing_whatever_it_knows(in_flight, home, size):
    candidates = engines(len(in_flight))
    home %= len(in_flight)
    affinity, prompt = policy(), text("a", size)
    affinity.pick(candidates[home : home + 1], [0], FakeAsk(prompt))
    picked = affinity.pick(candidates, in_flight, FakeAsk(prompt))
    assert in_flight[picked] + 1 <= max(ALWAYS, SPREAD * (sum(in_flight) + 1) / len(in_flight))


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 50)), min_size=1, max_size=20))
def test_without_prompts_work_is_shared_by_weight(state):
    weights, in_flight = [weight for weight, _ in state], [load for _, load in state]
    picked = policy().pick(engines(len(state), weights), in_flight, FakeAsk())
    assert 0 <= picked < len(state)


def test_under_load_without_prompts_each_engine_gets_its_weight():
    affinity, candidates, chance = policy(), engines(3, [1.0, 2.0, 5.0]), random.Random(3)
    in_flight = [0] * 3
    for _ in range(20_000):
        in_flight[affinity.pick(candidates, in_flight, FakeAsk())] += 1
        if sum(in_flight) > 80:
            in_flight[chance.choices(range(3), in_flight)[0]] -= 1
    shares = [load / sum(in_flight) for load in in_flight]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)


def test_a_hot_prefix_spreads_over_all_engines():
    affinity, candidates = policy(), engines()
    system, in_flight = text("system", 16_384), [0] * 4
    for n in range(200):
        in_flight[affinity.pick(candidates, in_flight, FakeAsk(system + text(n, 200)))] += 1
        assert max(in_flight) <= max(ALWAYS, 2 * sum(in_flight) / 4)
    assert min(in_flight) > 30


def test_workers_of_a_node_use_what_one_of_them_has_learned():
    shared, candidates = table(), engines()
    workers = [policy(shared, seed=seed) for seed in range(4)]
    for n in range(50):
        prompt = text(n, 2000)
        home = workers[n % 4].pick(candidates, IDLE, FakeAsk(prompt))
        assert {worker.pick(candidates, IDLE, FakeAsk(prompt + b"more")) for worker in workers} == {home}


def test_gateways_that_have_not_heard_of_each_other_agree_all_the_same():
    gateways, candidates = [policy(seed=seed) for seed in range(3)], engines()
    for n in range(50):
        prompt = text(n, 2000)
        assert len({gateway.pick(candidates, IDLE, FakeAsk(prompt)) for gateway in gateways}) == 1


def test_work_under_way_counts_until_it_is_done():
    loads, candidates = NoLoads(), engines(2)
    cells = {0: [50_000, 0], 1: [0, 0]}
    loads.work = cells.__getitem__  # type: ignore[method-assign]
    affinity = policy(loads=loads)
    assert {affinity.pick(candidates, [1, 5], FakeAsk(text(n, 2000))) for n in range(20)} == {1}
    cells[0][0] = 0
    assert {affinity.pick(candidates, [1, 5], FakeAsk(text(n + 100, 2000))) for n in range(20)} == {0}


@pytest.mark.parametrize("what", ["outside", "waiting"])
def test_what_an_engine_says_of_its_load_counts(what):
    loads = NoLoads()
    setattr(loads, what, [9, 0, *[0] * 100])
    affinity = policy(loads=loads)
    assert {affinity.pick(engines(2), [1, 2], FakeAsk(text(n, 2000))) for n in range(20)} == {1}


def test_an_engine_with_a_full_cache_is_avoided():
    loads = NoLoads()
    loads.kv_permille = [990, 500, *[0] * 100]
    affinity = policy(loads=loads)
    assert {affinity.pick(engines(2), [1, 1], FakeAsk(text(n, 2000))) for n in range(20)} == {1}


def test_it_goes_on_when_engines_come_and_go():
    affinity, everything, chance = policy(), engines(8), random.Random(1)
    for n in range(500):
        some = tuple(engine for engine in everything if chance.random() < 0.6) or everything[:1]
        assert 0 <= affinity.pick(some, [0] * len(some), FakeAsk(text(n % 20, 3000))) < len(some)
