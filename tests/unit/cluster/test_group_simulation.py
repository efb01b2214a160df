"""Groups on a network that loses, delays, repeats and cuts, with nodes and processes that die: what always holds."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cluster.group import Seat
from shoal.cluster.group_types import GroupTimers, Here, Meeting, Place
from shoal.cluster.view import Member, MemberState, NodeReport, Offer, SeatState, View, full_id

A, B, C, D, S = NODES = ("a:1", "b:1", "c:1", "d:1", "s:1")
ENGINE = "m-0"
GROUPS = {"a:1/m-0": (A, B), "c:1/m-0": (C, D)}
TIMERS = GroupTimers(join=5, again=1, grace=5, delay=lambda _: 1.0)


class Process(msgspec.Struct, frozen=True):
    terms: Offer
    token: int
    group: str


class Node:
    """A machine: its node process, if it runs, and the process of an engine, if there is one."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.process: Process | None = None
        self.exit: str | None = None
        self.persisted: dict[str, int] = {}
        self.incarnation = 0
        self.heard: dict[str, tuple[int, NodeReport]] = {}
        self.belief: dict[str, MemberState] = {}
        self.covers = ""
        self.seat: Seat | None = None
        self.up = False
        self.sequence = 0
        self.boot()

    def boot(self) -> None:
        self.world.clock += 1
        self.incarnation, self.sequence = int(self.world.clock * 1000), 0
        self.heard, self.up, self.exit = {}, True, None
        self.belief = dict.fromkeys(NODES, MemberState.UNKNOWN)
        self.seat = None
        self.take_place()
        if self.process is not None and self.seat is not None:
            self.seat.resume(self.process.terms, self.process.token)

    def take_place(self) -> None:
        wanted = self.place()
        if self.seat is not None and (wanted is None or wanted.group != self.seat.place.group):
            if self.seat.state is not SeatState.FREE:
                return  # first what it is in has to end
            self.seat = None
        if self.seat is None and wanted is not None:
            self.seat = Seat(self.name, wanted, TIMERS, self.world.clock, self.persisted.get(wanted.group, 0))

    def place(self) -> Place | None:
        mine = self.covers or self.name
        for group, nodes in GROUPS.items():
            if mine in nodes:
                return Place(engine=ENGINE, group=group, model="m", nodes=nodes, rank=nodes.index(mine))
        return None

    def report(self) -> NodeReport:
        seats = (self.seat.report(),) if self.seat is not None else ()
        return NodeReport(
            name=self.name, version="1", incarnation=self.incarnation, covers=self.covers, seats=seats
        )

    def view(self) -> View:
        members = [Member(name=self.name, state=MemberState.ALIVE, report=self.report(), is_self=True)]
        for other in NODES:
            if other != self.name:
                report = self.heard[other][1] if other in self.heard else None
                state = self.belief[other] if report else MemberState.UNKNOWN
                members.append(Member(name=other, state=state, report=report))
        return View(me=self.name, members=tuple(sorted(members, key=lambda m: m.name)))

    def hears(self, sequence: int, report: NodeReport) -> None:
        """As the roster does, take only what is newer than what was heard before."""
        known = self.heard.get(report.name)
        if known is None or (known[1].incarnation, known[0]) < (report.incarnation, sequence):
            self.heard[report.name] = sequence, report
            self.belief[report.name] = MemberState.ALIVE

    def act(self) -> None:
        if not self.up:
            return
        self.take_place()
        seat = self.seat
        if seat is None:
            return
        lifelines = {
            full_id(n.name, ENGINE): n.process is not None and not self.world.cut(self.name, n.name)
            for n in self.world.nodes.values()
        }
        here = Here(
            running=self.process.terms.generation if self.process else 0,
            exit=self.exit,
            meeting=Meeting("h", self.world.next_port()),
        )
        before = seat.generation
        seat.step(self.view(), here, lifelines, self.world.clock)
        assert seat.generation >= before
        if seat.generation > before:
            self.persisted[seat.place.group] = seat.generation
            self.world.joined.add((seat.place.group, seat.generation, self.name, seat.token))
        self.reconcile(seat)

    def reconcile(self, seat: Seat) -> None:
        terms = seat.terms
        if terms is None or terms.generation != seat.generation:
            self.exit = None
        if terms is not None and self.process is None and self.exit is None:
            self.world.starts(self, Process(terms, seat.token, seat.place.group))

    def end_process(self) -> None:
        """What the reconcile rules do: a process that should not run any more is killed, and some time later gone."""
        if self.up and self.process and (self.seat is None or self.seat.terms != self.process.terms):
            self.process = None


class World:
    def __init__(self) -> None:
        self.clock = 0.0
        self.port = 0
        self.cuts: set[frozenset[str]] = set()
        self.joined: set[tuple[str, int, str, int]] = set()
        self.started: dict[tuple[str, int, str, int], Offer] = {}
        self.mail: list[tuple[str, int, NodeReport]] = []
        self.nodes: dict[str, Node] = {}
        for name in NODES:
            self.nodes[name] = Node(name, self)

    def next_port(self) -> int:
        self.port += 1
        return self.port

    def cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.cuts

    # -- what must always hold

    def starts(self, node: Node, new: Process) -> None:
        terms, leader = new.terms, new.terms.members[0]
        assert node.process is None
        assert node.name in terms.members
        known = self.started.setdefault((new.group, terms.generation, leader, terms.tokens[0]), terms)
        assert known == terms, "one leader gives one generation one meaning"
        for member, token in zip(terms.members, terms.tokens, strict=True):
            assert (new.group, terms.generation, member, token) in self.joined, "all members have joined"
            there = self.nodes[member].process
            old = there is not None and there.group == new.group and there.terms.generation < terms.generation
            assert not old, "nothing of an earlier generation is left on any member"
        node.process = new

    def check(self) -> None:
        live = [p for p in {n.name: n.process for n in self.nodes.values()}.values() if p is not None]
        whole = {
            (p.group, p.terms.generation, p.terms.members)
            for p in live
            if all(self.runs(m, p) for m in p.terms.members)
        }
        members = [m for _, _, names in whole for m in names]
        assert len(members) == len(set(members)), "two live groups never share a member"

    def runs(self, name: str, process: Process) -> bool:
        found = self.nodes[name].process
        return found is not None and (found.terms, found.group) == (process.terms, process.group)

    # -- what happens

    def send(self, sender: str, receiver: str) -> None:
        node = self.nodes[sender]
        if node.up and sender != receiver:
            node.sequence += 1
            self.mail.append((receiver, node.sequence, node.report()))
            del self.mail[:-200]

    def deliver(self, index: int, keep: bool) -> None:
        if self.mail:
            at = index % len(self.mail)
            receiver, sequence, report = self.mail[at] if keep else self.mail.pop(at)
            if self.nodes[receiver].up and not self.cut(receiver, report.name):
                self.nodes[receiver].hears(sequence, report)

    def fair_round(self) -> None:
        """Everybody hears everybody who is up, judges truly, decides, and processes that are to end have ended."""
        self.clock += 0.5
        for node in self.nodes.values():
            for other in self.nodes.values():
                if node is not other and other.up and node.up and not self.cut(node.name, other.name):
                    other.sequence += 1
                    node.hears(other.sequence, other.report())
                elif node is not other:
                    node.belief[other.name] = MemberState.DEAD
        for node in self.nodes.values():
            node.act()
        for node in self.nodes.values():
            node.end_process()

    def whole(self, group: str) -> bool:
        live = [n.process for n in self.nodes.values() if n.process is not None and n.process.group == group]
        return len({p.terms for p in live}) == 1 and all(self.runs(m, live[0]) for m in live[0].terms.members)

    def rounds(self, condition: Callable[[], bool], most: int = 60) -> int:
        for count in range(most):
            if condition():
                return count
            self.fair_round()
            self.check()
        raise AssertionError(f"not within {most} rounds: {[n.report() for n in self.nodes.values()]}")


def happen(world: World, what: str, one: int, other: int) -> None:  # noqa: PLR0912 - a table of events
    node, peer = world.nodes[NODES[one % 5]], world.nodes[NODES[other % 5]]
    match what:
        case "send":
            world.send(node.name, peer.name)
        case "deliver":
            world.deliver(one * 7 + other, keep=False)
        case "deliver a copy":
            world.deliver(one * 7 + other, keep=True)
        case "lose":
            if world.mail:
                world.mail.pop((one * 7 + other) % len(world.mail))
        case "talk" if node.up and peer.up and node is not peer and not world.cut(node.name, peer.name):
            node.sequence += 1
            peer.hears(node.sequence, node.report())
            peer.act()
        case "act":
            world.clock += 0.3
            node.act()
        case "end process":
            node.end_process()
        case "exit" if node.process is not None:
            node.process = None
            node.exit = "exited with code 0" if node.up else None
        case "crash":
            node.up, node.seat = False, None
        case "power off":
            node.up, node.seat, node.process = False, None, None
        case "boot" if not node.up:
            node.boot()
        case "forget":
            node.persisted.clear()
        case "cut":
            world.cuts.add(frozenset((node.name, peer.name)))
        case "mend":
            world.cuts.discard(frozenset((node.name, peer.name)))
        case "misjudge" if peer.name in node.heard:
            node.belief[peer.name] = (MemberState.DEAD, MemberState.SUSPECT, MemberState.ALIVE)[one % 3]
        case "stand in":
            world.nodes[S].covers = ("", A, B, C, D)[other % 5]
        case "fair round":
            world.fair_round()


OPS = (
    *["talk"] * 14,
    *["act", "end process", "boot", "send", "deliver"] * 2,
    *("deliver a copy", "lose", "exit", "crash", "power off", "cut", "mend", "mend", "forget"),
    *("misjudge", "stand in", "fair round"),
)


def formed() -> World:
    world = World()
    world.rounds(lambda: all(map(world.whole, GROUPS)), 10)
    return world


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_happens_no_two_live_groups_share_a_member_and_all_become_whole_again(
    seed: int, from_the_beginning: bool
):
    rng = random.Random(seed)
    world = World() if from_the_beginning else formed()
    for _ in range(300):
        happen(world, rng.choice(OPS), rng.randrange(1000), rng.randrange(1000))
        world.check()
    world.cuts.clear()
    for node in world.nodes.values():
        if not node.up:
            node.boot()
    world.nodes[S].covers = ""
    world.rounds(lambda: all(map(world.whole, GROUPS)))


def test_without_trouble_a_group_forms_in_a_few_rounds_of_heartbeats():
    world = World()
    assert world.rounds(lambda: all(map(world.whole, GROUPS)), 10) <= 4


def test_a_generation_of_which_a_member_exits_is_over_on_all_and_the_next_has_a_higher_number():
    world = formed()
    world.nodes[B].process, world.nodes[B].exit = None, "exited with code 0"
    world.rounds(lambda: world.nodes[A].process is None, 3)
    world.rounds(lambda: world.whole("a:1/m-0"), 10)
    assert world.nodes[A].process and world.nodes[A].process.terms.generation == 2
    assert world.nodes[C].process and world.nodes[C].process.terms.generation == 1


def test_a_node_process_that_dies_and_comes_back_ends_nothing():
    world = formed()
    before = {n: world.nodes[n].process for n in (A, B)}
    for name in (B, A):
        happen(world, "crash", NODES.index(name), 0)
        for _ in range(8):
            world.fair_round()
        world.nodes[name].boot()
        for _ in range(8):
            world.fair_round()
    assert {n: world.nodes[n].process for n in (A, B)} == before


def test_a_standby_takes_a_lost_members_place_and_the_node_that_returns_waits_for_the_next_generation():
    world = formed()
    happen(world, "power off", NODES.index(B), 0)
    world.rounds(lambda: world.nodes[A].process is None, 3)
    world.nodes[S].covers = B
    world.rounds(lambda: world.whole("a:1/m-0"), 10)
    assert world.nodes[A].process and world.nodes[A].process.terms.members == (A, S)
    running = world.nodes[A].process
    world.nodes[B].boot()
    for _ in range(20):
        world.fair_round()
    assert world.nodes[A].process == running
    happen(world, "exit", NODES.index(S), 0)
    world.rounds(lambda: world.nodes[A].process not in (None, running) and world.whole("a:1/m-0"), 10)
    assert world.nodes[A].process and world.nodes[A].process.terms.members == (A, B)


def test_a_standby_leads_where_the_leaders_node_is_lost():
    world = formed()
    happen(world, "power off", NODES.index(A), 0)
    world.nodes[S].covers = A
    world.rounds(lambda: world.whole("a:1/m-0"), 10)
    assert world.nodes[S].process and world.nodes[S].process.terms.members == (S, B)
    assert world.nodes[S].process.terms.generation == 2
