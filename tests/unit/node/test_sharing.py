"""What nodes tell each other of their gateways' traffic."""

from __future__ import annotations

import os

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.cluster.wire import MAX_DATAGRAM, Codec, Message, Traffic
from shoal.gateway import affinity, counters
from shoal.gateway.affinity import Affinity
from shoal.gateway.counters import InFlight
from shoal.node import sharing
from shoal.node.sharing import BLOCKS, DATAGRAMS, Sharing
from shoal.node.slots import Slots
from shoal.routing.prefix_table import column

ENGINE = "a:1/m-0"


class Clock:
    """The time, as tests have it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(sharing.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(sharing.time, "monotonic_ns", lambda: int(self.now * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Node:
    """A node with one worker."""

    def __init__(self, *engines: str) -> None:
        self.slots = Slots(1024)
        for engine in engines:
            self.slots(engine)
        fds = counters.create(1), affinity.create(1, 1 << 20)
        self.in_flight, self.affinity = InFlight(fds[0], 1), Affinity(fds[1], 1)
        for fd in fds:
            os.close(fd)
        self.sent: list[Traffic] = []
        self.sharing = Sharing(self.slots, self.in_flight, self.affinity, self.sent.append)
        self.learned = self.affinity.teller(0)

    def slot(self, engine: str = ENGINE) -> int:
        slot = self.slots.get(engine)
        assert slot is not None
        return slot

    def others(self, engine: str = ENGINE) -> tuple[int, int]:
        """Return open requests and work of other nodes' gateways at an engine."""
        slot = self.slot(engine)
        return self.in_flight.row(1)[slot], self.affinity.work_row(1)[slot]


def view(*others: Member, running: int = 0, waiting: int = 0, instance: str = "1", kv: float = 0.0) -> View:
    engine = EngineReport(
        id="m-0", model="m", kind="sim", state=EngineState.READY, host="h", instance=instance,
        running=running, waiting=waiting, kv_usage=kv,
    )  # fmt: skip
    report = NodeReport(name="a:1", version="1", engines=(engine,))
    me = Member(name="a:1", state=MemberState.ALIVE, report=report, is_self=True)
    return View(me="a:1", members=(me, *others))


def other(name: str, state: MemberState = MemberState.ALIVE, n: int = 0) -> Member:
    return Member(name=name, state=state, report=NodeReport(name=name, version="1", in_flight={ENGINE: n}))


def test_what_one_learned_the_others_find_under_their_own_slots(clock: Clock) -> None:
    one, two = Node(ENGINE, "b:1/m-0"), Node("b:1/m-0", "x", ENGINE)
    one.learned(one.slot("b:1/m-0"), [1, 2, 3])
    one.learned(one.slot(), [2**64 - 1])
    one.in_flight.row(0)[one.slot()] = 2
    one.affinity.work_row(0)[one.slot()] = 5000
    one.sharing.tick()
    (traffic,) = one.sent
    two.sharing.heard("a:1", traffic)
    table = two.affinity.table
    assert table.match((1, 2, 3), column(two.slot("b:1/m-0"))).blocks(column(two.slot("b:1/m-0"))) == 3
    assert table.match((2**64 - 1,), column(two.slot())).blocks(column(two.slot())) == 1
    two.sharing.update(view(other("b:1")))
    assert two.others() == (0, 0), "it was not b that spoke"
    two.sharing.heard("b:1", traffic)
    two.sharing.tick()
    assert two.others() == (2, 5000)


def test_engines_nobody_here_knows_are_passed_over(clock: Clock) -> None:
    node = Node(ENGINE)
    node.sharing.heard("b:1", Traffic({"z": 1}, {"z": 1}, {"z": b"12345678", ENGINE: b"123"}))
    node.sharing.update(view(other("b:1")))
    assert node.others() == (0, 0)


def test_heartbeats_count_where_nothing_newer_was_heard(clock: Clock) -> None:
    node = Node(ENGINE)
    node.sharing.update(
        view(other("b:1", n=3), other("c:1", MemberState.SUSPECT, n=4), other("d:1", MemberState.DEAD, n=50))
    )
    assert node.others() == (7, 0)
    node.sharing.heard("b:1", Traffic({ENGINE: 9}, {ENGINE: 100}))
    node.sharing.tick()
    assert node.others() == (13, 100)
    clock.now += 2
    node.sharing.update(view(other("b:1", n=3)))
    assert node.others() == (3, 0)


def test_a_dead_members_gateways_hold_nothing(clock: Clock) -> None:
    node = Node(ENGINE)
    node.sharing.heard("b:1", Traffic({ENGINE: 9}, {ENGINE: 100}))
    node.sharing.update(view(other("b:1")))
    assert node.others() == (9, 100)
    node.sharing.update(view(other("b:1", MemberState.DEAD)))
    assert node.others() == (0, 0)


def test_nothing_is_said_while_there_is_nothing_to_say_and_zeros_are_said_for_a_while(clock: Clock) -> None:
    node = Node(ENGINE)
    node.sharing.tick()
    assert node.sent == []
    node.in_flight.row(0)[node.slot()] = 1
    node.sharing.tick()
    node.in_flight.row(0)[node.slot()] = 0
    for _ in range(100):
        clock.now += 0.05
        node.sharing.tick()
    assert [len(traffic.in_flight) for traffic in node.sent] == [1] + [0] * (len(node.sent) - 1)
    assert 3 <= len(node.sent) <= 6


def test_a_flood_of_new_blocks_is_cut_to_what_datagrams_hold(clock: Clock) -> None:
    node = Node(ENGINE)
    for n in range(15):
        node.learned(node.slot(), list(range(n * 1000, n * 1000 + 1000)))
    node.sharing.tick()
    assert len(node.sent) == -(-15 * 1000 // BLOCKS) <= DATAGRAMS
    codec = Codec("c", None)
    assert all(len(codec.encode(Message("a:1", 1, 1, traffic))) < MAX_DATAGRAM for traffic in node.sent)
    assert sum(len(traffic.blocks[ENGINE]) for traffic in node.sent) == 8 * 15_000


def test_requests_from_outside_are_those_an_engine_has_all_the_time(clock: Clock) -> None:
    node = Node(ENGINE)

    def outside(running: int, waiting: int, ours: int, seconds: float) -> int:
        for _ in range(int(seconds * 4)):
            node.in_flight.row(0)[node.slot()] = ours
            clock.now += 0.25
            node.sharing.update(view(running=running, waiting=waiting, kv=0.5))
        return node.affinity.outside[node.slot()]

    assert outside(0, 0, 0, 3) == 0
    assert outside(9, 1, 0, 1.5) == 0, "numbers that are late"
    assert outside(9, 1, 10, 5) == 0, "all of them are ours"
    assert outside(9, 4, 10, 4) == 3
    assert (node.affinity.waiting[node.slot()], node.affinity.kv_permille[node.slot()]) == (4, 500)


def test_nonsense_from_others_does_no_harm(clock: Clock) -> None:
    node = Node(ENGINE)
    most = 2**63 - 1
    for name in ("b:1", "c:1"):
        node.sharing.heard(name, Traffic({ENGINE: most}, {ENGINE: most}, {ENGINE: b"odd"}))
    node.sharing.update(view(other("b:1"), other("c:1", n=-5), running=2**80, waiting=2**80, kv=float("nan")))
    assert node.others() == (1 << 40, 1 << 40)
    assert (node.affinity.waiting[node.slot()], node.affinity.kv_permille[node.slot()]) == (1 << 40, 0)


def test_a_restarted_engine_has_an_empty_cache(clock: Clock) -> None:
    node, bit = Node(ENGINE), 0
    bit = column(node.slot())
    node.sharing.update(view(instance="1"))
    clock.now += 1
    node.affinity.table.put((1, 2), bit, int(clock.now * 1000))
    node.sharing.update(view(instance="1"))
    assert node.affinity.table.match((1, 2), bit).blocks(bit) == 2
    clock.now += 1
    node.sharing.update(view(instance="2"))
    assert node.affinity.table.match((1, 2), bit).blocks(bit) == 0


def test_what_is_told_of_an_engine_before_this_node_has_seen_it_is_kept(clock: Clock) -> None:
    node = Node(ENGINE)
    bit = column(node.slot())
    one = Node(ENGINE)
    one.learned(one.slot(), [1, 2])
    one.sharing.tick()
    node.sharing.heard("b:1", one.sent[0])
    clock.now += 0.2
    node.sharing.update(view(instance="1"))
    assert node.affinity.table.match((1, 2), bit).blocks(bit) == 2


def test_what_stays_the_same_is_told_seldom_and_what_changes_at_once(clock: Clock) -> None:
    node = Node(ENGINE)
    node.in_flight.row(0)[node.slot()] = 7
    for _ in range(40):
        node.sharing.tick()
        clock.now += 0.05
    assert 3 <= len(node.sent) <= 5, "in two seconds"
    said = len(node.sent)
    node.in_flight.row(0)[node.slot()] = 8
    node.sharing.tick()
    node.affinity.work_row(0)[node.slot()] = 100
    node.sharing.tick()
    node.learned(node.slot(), [1])
    node.sharing.tick()
    assert [(t.in_flight, t.work, bool(t.blocks)) for t in node.sent[said:]] == [
        ({ENGINE: 8}, {}, False),
        ({ENGINE: 8}, {ENGINE: 100}, False),
        ({ENGINE: 8}, {ENGINE: 100}, True),
    ]


def test_a_node_without_others_knows_that_nobody_hears_it(clock: Clock) -> None:
    node = Node(ENGINE)
    for members, alone in (((), True), ((other("b:1", MemberState.DEAD),), True), ((other("b:1"),), False)):
        node.sharing.update(view(*members))
        assert node.sharing.alone is alone
