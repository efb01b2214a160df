"""Offsets that may be committed, and partitions for requests."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.kafka_rules import Offsets, Spread


def test_an_offset_is_committed_when_all_before_it_are_done() -> None:
    offsets = Offsets()
    for n in (3, 4, 7):
        offsets.take(n)
    assert offsets.done(4) is None
    assert offsets.done(3) == 5
    assert offsets.done(3) is None
    assert offsets.done(7) == 8


def test_offsets_that_begin_anew_are_those_of_a_new_topic() -> None:
    offsets = Offsets()
    offsets.take(7)
    offsets.take(0)
    offsets.take(1)
    assert offsets.done(7) is None
    assert offsets.done(0) == 1


@given(st.permutations(range(12)))
def test_in_whatever_order_they_end_nothing_unfinished_is_committed(order: list[int]) -> None:
    offsets = Offsets()
    for n in range(12):
        offsets.take(n)
    done: set[int] = set()
    last = 0
    for n in order:
        done.add(n)
        upto = offsets.done(n)
        if upto is not None:
            assert set(range(upto)) <= done
            last = upto
    assert last == 12


def test_requests_are_spread_over_partitions_nobody_is_known_of() -> None:
    spread = Spread()
    assert {spread.pick(str(n), "t", 4, "a") for n in range(4)} == {0, 1, 2, 3}


def test_a_request_goes_to_the_node_that_the_gateway_picked_once_its_partition_is_known() -> None:
    spread = Spread()
    place = spread.pick("first", "t", 4, "a")
    spread.taken("first", "a")
    assert [spread.pick(f"more{n}", "t", 4, "a") for n in range(3)] == [place] * 3
    assert spread.pick("other", "t", 4, "b") != place


def test_without_the_picked_node_the_one_with_the_least_from_here_gets_it() -> None:
    spread = Spread()
    first = spread.pick("1", "t", 2, "gone")
    second = spread.pick("2", "t", 2, "gone")
    assert {first, second} == {0, 1}
    spread.over("1")
    assert spread.pick("3", "t", 2, "gone") == first


def test_a_request_that_is_sent_again_goes_elsewhere() -> None:
    spread = Spread()
    place = spread.pick("1", "t", 4, "a")
    spread.taken("1", "a")
    for _ in range(3):
        assert spread.pick("1", "t", 4, "a") != place or spread.pick("1", "t", 4, "b") != place
    spread.over("1")
    spread.over("1")
