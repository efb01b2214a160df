"""Session."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.session import ALWAYS, BOUND, Session
from shoal.routing.table import EngineTarget
from support.asks import FakeAsk


def engines(weights: list[float]) -> tuple[EngineTarget, ...]:
    return tuple(
        EngineTarget(id=f"node{n}:8000/m-0", slot=n, host="h", port=1, weight=weight)
        for n, weight in enumerate(weights)
    )


FIVE = engines([1.0] * 5)
IDLE = [0] * 5


def asks(count: int) -> list[FakeAsk]:
    return [FakeAsk(key=b"user %d" % n) for n in range(count)]


def test_all_gateways_send_a_session_to_the_same_engine_and_sessions_are_spread():
    gateways = [Session(seed) for seed in range(3)]
    picks = Counter()
    for ask in asks(500):
        (picked,) = {gateway.pick(FIVE, IDLE, ask) for gateway in gateways}
        picks[picked] += 1
    assert all(65 <= picks[index] <= 140 for index in range(5))


def test_when_an_engine_goes_only_its_sessions_move():
    policy = Session()
    for ask in asks(200):
        before = policy.pick(FIVE, IDLE, ask)
        after = policy.pick(FIVE[:4], IDLE[:4], ask)
        assert before in (after, 4)


def test_sessions_are_spread_by_weight():
    picks = Counter(Session().pick(engines([1.0, 3.0]), [0, 0], ask) for ask in asks(2000))
    assert picks[1] / 2000 == pytest.approx(0.75, abs=0.04)


def test_the_header_comes_before_what_else_names_the_session():
    policy = Session(header=b"x-conversation")
    for n in range(50):
        with_header = FakeAsk(key=b"u", headers={b"x-conversation": b"user %d" % n})
        assert policy.pick(FIVE, IDLE, with_header) == policy.pick(FIVE, IDLE, FakeAsk(key=b"user %d" % n))


@given(st.lists(st.integers(0, 100), min_size=2, max_size=12), st.binary(min_size=1))
def test_no_engine_gets_more_than_its_bound(in_flight, key):
    candidates = engines([1.0] * len(in_flight))
    picked = Session().pick(candidates, in_flight, FakeAsk(key=key))
    bound = BOUND * (sum(in_flight) + 1) / len(in_flight)
    assert in_flight[picked] + 1 <= max(ALWAYS, bound)


def test_without_a_session_there_is_least_connections():
    assert Session().pick(FIVE, [3, 2, 1, 2, 3], FakeAsk()) == 2
