"""The queue in front of the engines: order, fairness, bounds, and how fast it says it moves."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway.waiting import MEMORY, RELIEF, Claim, DrainRate, Ticket, WaitingQueue

BATCH = Claim(batch=True)


def queue(places: int = 1000, size: int = 10**9) -> WaitingQueue[str]:
    return WaitingQueue(places, size)


def offer(
    q: WaitingQueue[str],
    item: str,
    priority: int = 0,
    owner: str = "a",
    *,
    batch: bool = False,
    size: int = 1,
    now: float = 0.0,
    deadline: float = math.inf,
) -> tuple[Ticket[str] | None, Ticket[str] | None]:
    claim = Claim(priority=priority, batch=batch)
    return q.offer(item, claim, owner, size=size, now=now, deadline=deadline)


def drain(q: WaitingQueue[str], now: float = 0.0, most: int = 10**6) -> list[str]:
    started = []
    while len(started) < most and (ticket := q.next()) is not None:
        q.start(ticket, now)
        started.append(ticket.item)
    return started


def test_one_owner_is_served_first_come_first_served():
    q = queue()
    for i in range(25):
        offer(q, str(i))
    assert drain(q) == [str(i) for i in range(25)]
    assert (len(q), q.interactive, q.bytes) == (0, 0, 0)


def test_lower_priorities_go_first_and_batch_goes_last():
    q = queue()
    offer(q, "batch", -5, batch=True)
    offer(q, "late", 7)
    offer(q, "ordinary", 0)
    offer(q, "urgent", -1)
    assert drain(q) == ["urgent", "ordinary", "late", "batch"]


def test_owners_take_turns():
    q = queue()
    for i in range(5):
        offer(q, f"a{i}", owner="a")
    for i in range(2):
        offer(q, f"b{i}", owner="b")
    assert drain(q) == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_an_owner_with_one_request_at_a_time_waits_for_one_of_each_other_owner():
    q = queue()
    for i in range(100):
        offer(q, f"a{i}", owner="a")
        offer(q, f"b{i}", owner="b")
    for i in range(20):
        offer(q, f"c{i}", owner="c")
        assert f"c{i}" in drain(q, most=3)


def test_one_in_ten_starts_is_of_the_priority_that_waits_longest():
    q = queue(2000)
    for i in range(20):
        offer(q, f"late{i}", 100)
    for i in range(1000):
        offer(q, f"urgent{i}", -1)
    order = drain(q, most=200)
    lates = [i for i, item in enumerate(order) if item.startswith("late")]
    assert lates == [RELIEF * (i + 1) - 1 for i in range(20)]


def test_relief_is_not_for_batch():
    q = queue()
    offer(q, "batch", batch=True)
    for i in range(50):
        offer(q, str(i))
    assert drain(q)[-1] == "batch"


def test_a_full_queue_takes_no_more_of_the_same_owner():
    q = queue(2)
    offer(q, "1")
    offer(q, "2")
    assert offer(q, "3") == (None, None)
    assert drain(q) == ["1", "2"]


def test_a_queue_without_places_takes_nobody():
    assert offer(queue(0), "1") == (None, None)


def test_a_full_queue_gives_the_newest_place_of_a_less_urgent_class_away():
    q = queue(3)
    offer(q, "batch1", batch=True)
    offer(q, "batch2", batch=True)
    offer(q, "ordinary")
    ticket, gone = offer(q, "another")
    assert ticket is not None
    assert gone is not None
    assert (gone.item, gone.waits) == ("batch2", False)
    ticket, gone = offer(q, "urgent", -1)
    assert gone is not None
    assert gone.item == "batch1"
    assert offer(q, "batch3", batch=True) == (None, None)
    assert drain(q) == ["urgent", "ordinary", "another"]


def test_a_full_queue_gives_places_of_who_has_most_to_who_has_few():
    q = queue(6)
    for i in range(6):
        offer(q, f"a{i}", owner="a")
    gone = [offer(q, f"b{i}", owner="b")[1] for i in range(5)]
    assert [ticket.item for ticket in gone if ticket] == ["a5", "a4", "a3"]
    assert sorted(drain(q)) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_bytes_are_bounded_but_a_large_one_alone_is_taken():
    q = queue(10, 100)
    assert offer(q, "large", size=150)[0] is not None
    assert offer(q, "small", size=1)[0] is None
    drain(q)
    assert offer(q, "1", size=60, batch=True)[0] is not None
    assert offer(q, "2", size=60)[1] is not None
    assert q.bytes == 60


def test_who_waited_too_long_is_taken_out_once():
    q = queue()
    offer(q, "short", deadline=5.0)
    offer(q, "long", deadline=9.0)
    offer(q, "for ever", batch=True)
    gone, _ = offer(q, "gone", deadline=4.0)
    assert gone is not None
    q.leave(gone, 1.0)
    q.leave(gone, 1.0)
    assert [t.item for t in q.expired(4.9)] == []
    assert [t.item for t in q.expired(6.0)] == ["short"]
    assert [t.item for t in q.expired(100.0)] == ["long"]
    assert drain(q) == ["for ever"]


def test_deadlines_of_those_that_have_started_are_forgotten():
    q = queue()
    for i in range(10_000):
        offer(q, str(i), now=float(i), deadline=1e9)
        drain(q, float(i))
    assert len(q._deadlines) < 100


def test_the_drain_time_is_that_of_the_starts_seen():
    q = queue()
    for i in range(1000):
        offer(q, str(i), now=0.0)
    assert q.drain_time(Claim(), 0.0) is None
    for i in range(200):
        ticket = q.next()
        assert ticket is not None
        q.start(ticket, i / 20)  # 20 per second
    assert q.drain_time(Claim(), 10.0) == pytest.approx(800 / 20, rel=0.05)
    offer(q, "b", batch=True, now=10.0)
    assert q.drain_time(BATCH, 10.0) == pytest.approx(801 / 20, rel=0.05)
    assert len(q) == 801


def test_the_rate_follows_a_change_and_outlives_an_empty_queue():
    rate = DrainRate()
    rate.begin(0.0)
    now = 0.0
    for _ in range(1000):
        now += 0.01
        rate.started(now)
    assert rate.per_second(now) == pytest.approx(100, rel=0.05)
    rate.end(now)
    now += 1e4  # nobody waits: nothing is learned and nothing forgotten
    rate.begin(now)
    assert rate.per_second(now) == pytest.approx(100, rel=0.05)
    end = now + 3 * MEMORY
    while now < end:
        now += 1.0
        rate.started(now)
    assert rate.per_second(now) < 100 / 10


def test_a_stuck_queue_says_it_takes_longer_and_longer():
    q = queue()
    for i in range(100):
        offer(q, str(i))
    for i in range(10):
        ticket = q.next()
        assert ticket is not None
        q.start(ticket, i / 10)
    told = [q.drain_time(Claim(), float(now)) or 0.0 for now in (1, 5, 20, 40)]
    assert told == sorted(told)
    assert told[-1] > 3 * told[0]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.integers(-2, 2),
            st.booleans(),
            st.sampled_from("abc"),
            st.integers(0, 5),
            st.integers(1, 20),
        ),
        st.tuples(st.just("start")),
        st.tuples(st.just("leave"), st.integers(0, 100)),
        st.tuples(st.just("wait"), st.integers(1, 5)),
    ),
    max_size=80,
)


@given(OPERATIONS, st.integers(0, 8), st.integers(0, 15))
def test_nobody_is_lost_and_no_bound_is_passed(operations, places, size):  # noqa: PLR0912 one branch per operation
    q: WaitingQueue[int] = WaitingQueue(places, size)
    inside: dict[int, Ticket[int]] = {}
    now, offered = 0.0, 0
    outcomes: Counter[int] = Counter()
    for operation in operations:
        if operation[0] == "offer":
            _, priority, batch, owner, length, patience = operation
            offered += 1
            ticket, gone = q.offer(
                offered,
                Claim(priority=priority, batch=batch),
                owner,
                size=length,
                now=now,
                deadline=now + patience,
            )
            if gone is not None:
                assert ticket is not None
                assert gone.rank > ticket.rank or (gone.rank == ticket.rank and gone.owner != owner)
                del inside[gone.item]
                outcomes[gone.item] += 1
            if ticket is None:
                outcomes[offered] += 1
            else:
                inside[offered] = ticket
        elif operation[0] == "start":
            first = q.next()
            assert (first is None) == (not inside)
            if first is not None:
                if first.rank[0]:
                    assert all(t.rank[0] for t in inside.values()), "batch yields to all others"
                older = [t for t in inside.values() if t.rank == first.rank and t.owner == first.owner]
                assert min(t.number for t in older) == first.number, "one owner is served in order"
                q.start(first, now)
                del inside[first.item]
                outcomes[first.item] += 1
        elif operation[0] == "leave":
            if inside:
                ticket = list(inside.values())[operation[1] % len(inside)]
                q.leave(ticket, now)
                del inside[ticket.item]
                outcomes[ticket.item] += 1
        else:
            now += operation[1]
            for ticket in q.expired(now):
                assert ticket.deadline <= now
                del inside[ticket.item]
                outcomes[ticket.item] += 1
            assert all(t.deadline > now for t in inside.values())
        assert len(q) == len(inside) <= places
        assert q.interactive == sum(not t.rank[0] for t in inside.values())
        assert q.bytes == sum(t.size for t in inside.values())
        assert q.bytes <= size or len(q) == 1
    while (ticket := q.next()) is not None:
        q.start(ticket, now)
        outcomes[ticket.item] += 1
    assert outcomes == Counter(range(1, offered + 1)), "each one has one end"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 30)),
        min_size=2,
        max_size=4,
        unique_by=lambda p: p[0],
    )
)
def test_owners_that_all_have_something_waiting_are_served_alike(owners):
    q = queue()
    for owner, count in owners:
        for i in range(count):
            offer(q, f"{owner}{i}", owner=owner)
    left = dict(owners)
    served: Counter[str] = Counter()
    while all(left.values()):
        (item,) = drain(q, most=1)
        left[item[0]] -= 1
        served[item[0]] += 1
        counts = [served[owner] for owner, _ in owners]
        assert max(counts) - min(counts) <= 1
