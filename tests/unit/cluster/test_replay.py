from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.replay import WINDOW, Replay, ReplayGuard, StaleIncarnation
from shoal.cluster.wire import Goodbye, Hello, Message, Payload


def message(
    sequence: int, incarnation: int = 1, sender: str = "a:1", payload: Payload | None = None
) -> Message:
    return Message(sender, incarnation, sequence, payload or Goodbye())


def test_each_datagram_is_taken_once() -> None:
    guard = ReplayGuard()
    for sequence in range(1000):
        guard.check(message(sequence))
        with pytest.raises(Replay):
            guard.check(message(sequence))


@given(st.integers(0, 2**32))
def test_datagrams_reordered_within_the_window_are_all_taken(seed: int) -> None:
    guard = ReplayGuard()
    rng = random.Random(seed)
    # No datagram moves by as much as the window.
    sequences = sorted(range(500), key=lambda sequence: sequence + rng.uniform(0, WINDOW - 1))
    for sequence in sequences:
        guard.check(message(sequence))


def test_a_datagram_older_than_the_window_is_refused() -> None:
    guard = ReplayGuard()
    guard.check(message(WINDOW + 10))
    guard.check(message(11))
    with pytest.raises(Replay):
        guard.check(message(10))


@given(st.lists(st.integers(0, 2**63 - 1), max_size=60))
def test_nothing_is_ever_taken_twice(sequences: list[int]) -> None:
    guard = ReplayGuard()
    taken = set()
    for sequence in sequences:
        try:
            guard.check(message(sequence))
        except Replay:
            continue
        assert sequence not in taken
        taken.add(sequence)


def test_a_newer_process_begins_anew_and_shuts_out_the_older_one() -> None:
    guard = ReplayGuard()
    guard.check(message(100, incarnation=1))
    guard.check(message(1, incarnation=2))
    with pytest.raises(StaleIncarnation):
        guard.check(message(101, incarnation=1))
    with pytest.raises(Replay) as caught:
        guard.check(message(100, incarnation=1))
    assert not isinstance(caught.value, StaleIncarnation)


def test_asking_shuts_nobody_out_and_is_taken_from_any_process() -> None:
    guard = ReplayGuard()
    guard.check(message(1, incarnation=5))
    guard.check(message(1, incarnation=9, payload=Hello()))
    guard.check(message(2, incarnation=5))
    guard.check(message(1, incarnation=3, payload=Hello()))
    with pytest.raises(Replay):
        guard.check(message(1, incarnation=3, payload=Hello()))


def test_senders_do_not_mix_and_memory_is_bounded() -> None:
    guard = ReplayGuard()
    for number in range(10_000):
        guard.check(message(1, sender=f"a:{number}"))
    assert len(guard._windows) == len(guard._current) == 4096
    with pytest.raises(Replay):
        guard.check(message(1, sender="a:9999"))
