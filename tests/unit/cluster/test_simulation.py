"""Whole clusters of rosters on a simulated network and clock: loss, delay, reordering, cuts, deaths, restarts."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cluster.addresses import Address
from shoal.cluster.detector import Timers
from shoal.cluster.roster import Connect, Effect, Roster, Send, SendHeartbeat, Tell
from shoal.cluster.view import MemberState, NodeReport
from shoal.cluster.wire import Goodbye, Message, Payload
from support.thorough import tries

TIMERS = Timers()
ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT


def name(index: int) -> str:
    return f"10.0.0.{index}:8000"


class Node:
    """A process: a roster, and what it told people."""

    def __init__(self, sim: Simulation, index: int, incarnation: int, peers: list[int]) -> None:
        self.sim = sim
        self.index = index
        self.address: Address = (f"10.0.0.{index}", 8000)
        self.report = NodeReport(name=name(index), version="1")
        self.roster = Roster(
            name(index),
            incarnation,
            TIMERS,
            [(f"10.0.0.{i}", 8000) for i in peers],
            random.Random(sim.seed + index),
        )
        self.sequence = 0
        self.running = True
        self.frozen_until = 0.0
        self.told: list[tuple[float, str]] = []

    def state(self, index: int) -> MemberState | None:
        return self.roster.detector.state(name(index))

    def start(self) -> None:
        self.roster.join(self.sim.now)
        self.tick()
        self.round()

    def round(self) -> None:
        if self.running:
            self.send(self.roster.targets(self.sim.now), self.roster.heartbeat(self.report, self.sim.now))
            self.sim.at(self.wake(self.sim.now + TIMERS.interval), self.round)

    def tick(self) -> None:
        if self.running:
            self.apply(self.roster.tick(self.sim.now))
            lateness = self.sim.rng.uniform(0, 0.005)
            self.sim.at(self.wake(self.roster.detector.due + lateness), self.tick)

    def wake(self, at: float) -> float:
        return max(at, self.frozen_until)

    def send(self, to: Iterable[Address], payload: Payload) -> None:
        self.sequence += 1
        message = Message(self.roster.me, self.roster.incarnation, self.sequence, payload)
        for address in sorted(to):
            self.sim.carry(self, address, message)

    def receive(self, message: Message, source: Address) -> None:
        if self.frozen_until > self.sim.now:
            self.sim.at(self.frozen_until + 0.002, lambda: self.receive(message, source))
        elif self.running:
            self.apply(self.roster.receive(message, source, self.report, self.sim.now))

    def connected(self, target: str, reachable: bool) -> None:
        if self.running:
            self.apply(self.roster.connected(target, reachable, self.sim.now))

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(sentence):
                    self.told.append((self.sim.now, sentence))
                case Send(to, payload):
                    self.send(to, payload)
                case SendHeartbeat(to):
                    self.send([to], self.roster.heartbeat(self.report, self.sim.now))
                case Connect(target, address):
                    self.sim.connect(self, target, address)

    def when(self, text: str) -> list[float]:
        return [t for t, sentence in self.told if text in sentence]


class Simulation:
    """The network and the clock."""

    def __init__(self, count: int, seed: int = 1, loss: float = 0.0, delay: float = 0.03) -> None:
        self.seed, self.loss, self.delay = seed, loss, delay
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.cuts: set[tuple[int, int]] = set()
        self.hosts_down: set[int] = set()
        self.nodes: dict[int, Node] = {}
        self.indices = list(range(1, count + 1))
        for index in self.indices:
            self.at(self.rng.uniform(0, 1), lambda index=index: self.boot(index))  # type: ignore[misc]
        self.run(4)

    def boot(self, index: int, peers: list[int] | None = None) -> Node:
        node = Node(self, index, int(self.now * 1000) + 1, self.indices if peers is None else peers)
        self.nodes[index] = node
        self.hosts_down.discard(index)
        node.start()
        return node

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = end

    def passes(self, source: int, target: int) -> bool:
        down = {source, target} & self.hosts_down
        return not down and (source, target) not in self.cuts and self.rng.random() >= self.loss

    def later(self) -> float:
        return self.now + self.rng.uniform(0.0001, self.delay)

    def carry(self, source: Node, to: Address, message: Message) -> None:
        target = int(to[0].rpartition(".")[2])
        if self.passes(source.index, target):
            self.at(self.later(), lambda: self.deliver(target, message, source.address))

    def deliver(self, target: int, message: Message, source: Address) -> None:
        if target in self.nodes:
            self.nodes[target].receive(message, source)

    def connect(self, source: Node, target_name: str, to: Address) -> None:
        target = int(to[0].rpartition(".")[2])
        answered = self.passes(source.index, target) and self.passes(target, source.index)
        accepted = answered and target in self.nodes and self.nodes[target].running
        when = self.later() if answered else self.now + 0.8 * TIMERS.confirm_timeout
        self.at(when, lambda: source.connected(target_name, accepted))

    def kill(self, index: int, host: bool = False) -> float:
        self.nodes[index].running = False
        if host:
            self.hosts_down.add(index)
        return self.now

    def cut(self, one: list[int], other: list[int]) -> None:
        self.cuts |= {(a, b) for a in one for b in other} | {(b, a) for a in one for b in other}

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running]

    def false_deaths(self) -> list[str]:
        return [s for node in self.nodes.values() for _, s in node.told if " is dead" in s]


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_all_find_each_other_in_any_order(count: int) -> None:
    sim = Simulation(count, seed=count)
    for node in sim.living():
        assert all(node.state(i) is ALIVE for i in sim.indices if i != node.index)


@pytest.mark.parametrize(("count", "seed"), [(3, 1), (3, 2), (4, 3), (7, 4)])
def test_a_fifth_of_all_datagrams_lost_for_minutes_kills_nobody(count: int, seed: int) -> None:
    sim = Simulation(count, seed, loss=0.2)
    sim.run(300)
    assert sim.false_deaths() == []
    assert any(node.when("is suspect") for node in sim.living()), (
        "the network was not bad enough to test anything"
    )
    assert not any(node.roster.detector.isolated for node in sim.living())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(2, 7),
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    host=st.booleans(),
    moment=st.floats(0, 1),
)
def test_a_death_is_known_everywhere_within_two_seconds(
    count: int, seed: int, loss: float, host: bool, moment: float
) -> None:
    sim = Simulation(count, seed, loss)
    sim.run(moment)
    sim.kill(1, host)
    if loss == 0:  # otherwise silence may have begun before death
        sim.run(TIMERS.suspect_silence - TIMERS.interval)
        assert [n.state(1) for n in sim.living()] == [ALIVE] * (count - 1)
        sim.run(TIMERS.interval + 0.5)
    else:
        sim.run(2.0)
    assert [n.state(1) for n in sim.living()] == [DEAD] * (count - 1)


def test_a_killed_process_is_found_faster_when_everybody_denies_it() -> None:
    sim = Simulation(4, seed=5)
    died = sim.kill(2)
    sim.run(3)
    for node in sim.living():
        (at,) = node.when(f"{name(2)} is dead")
        assert at - died < TIMERS.suspect_silence + 0.3
        assert "2 members and a TCP probe agree" in next(s for _, s in node.told if " is dead" in s)


def test_the_minority_of_a_partition_knows_it_is_cut_off_and_the_majority_goes_on() -> None:
    sim = Simulation(3, seed=6)
    sim.cut([1, 2], [3])
    sim.run(3)
    one, two, three = (sim.nodes[i] for i in (1, 2, 3))
    assert (one.state(2), one.state(3), one.roster.detector.isolated) == (ALIVE, DEAD, False)
    assert (two.state(1), two.state(3), two.roster.detector.isolated) == (ALIVE, DEAD, False)
    assert (three.state(1), three.state(2), three.roster.detector.isolated) == (DEAD, DEAD, True)
    # The brake is on no later than the first death is known: nobody can begin a takeover in between.
    assert three.when("cut off")[0] <= three.when("is dead")[0]

    sim.cuts.clear()
    sim.run(4)
    assert (three.state(1), three.state(2), three.roster.detector.isolated) == (ALIVE, ALIVE, False)
    assert three.when("not count as cut off any more")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), count=st.integers(4, 7), loss=st.sampled_from([0.0, 0.1]))
def test_a_node_that_loses_most_others_is_never_unbraked_while_one_is_dead(
    seed: int, count: int, loss: float
) -> None:
    sim = Simulation(count, seed, loss)
    lonely, stays = sim.nodes[1], 2
    sim.cut([1, stays], [i for i in sim.indices if i not in (1, stays)] if count > 4 else [3, 4])
    for _ in range(400):
        sim.run(0.01)
        dead = [i for i in sim.indices[1:] if lonely.state(i) is DEAD]
        assert lonely.roster.detector.isolated or not dead
    assert lonely.roster.detector.isolated


def test_two_of_three_nodes_really_die_and_the_third_says_so_but_takes_nothing_over() -> None:
    sim = Simulation(3, seed=7)
    sim.kill(2, host=True)
    sim.kill(3, host=True)
    sim.run(2)
    survivor = sim.nodes[1]
    assert (survivor.state(2), survivor.state(3)) == (DEAD, DEAD)
    assert survivor.roster.detector.isolated
    sim.run(60)
    assert survivor.roster.detector.isolated
    sim.boot(2)
    sim.run(3)
    assert (survivor.state(2), survivor.state(3), survivor.roster.detector.isolated) == (ALIVE, DEAD, False)


def test_two_nodes_that_die_one_after_the_other_are_no_isolation() -> None:
    sim = Simulation(3, seed=8)
    sim.kill(2)
    sim.run(5)
    sim.kill(3)
    sim.run(5)
    assert (sim.nodes[1].state(2), sim.nodes[1].state(3)) == (DEAD, DEAD)
    assert not sim.nodes[1].roster.detector.isolated


def test_a_cut_one_way_makes_suspect_only_until_the_limit() -> None:
    sim = Simulation(3, seed=9)
    sim.cuts.add((2, 1))  # 1 does not hear 2; everybody else hears everybody
    sim.run(TIMERS.suspect_limit - 1)
    assert sim.nodes[1].state(2) is SUSPECT
    assert sim.nodes[1].when(f"stays suspect: no heartbeat here, but {name(3)} hears it")
    assert sim.nodes[2].state(1) is ALIVE
    assert sim.nodes[3].state(2) is ALIVE
    sim.run(2)
    assert sim.nodes[1].state(2) is DEAD
    assert sim.nodes[1].when(f"although {name(3)} hears it")
    sim.cuts.clear()
    sim.run(1)
    assert sim.nodes[1].state(2) is ALIVE


def test_a_node_process_that_hangs_behind_a_living_gateway_is_suspect_until_the_limit() -> None:
    sim = Simulation(3, seed=10)
    sim.nodes[2].frozen_until = sim.now + 60
    sim.run(TIMERS.suspect_limit - 1)
    assert [sim.nodes[i].state(2) for i in (1, 3)] == [SUSPECT, SUSPECT]
    sim.run(2)
    assert [sim.nodes[i].state(2) for i in (1, 3)] == [DEAD, DEAD]


def test_a_paused_node_blames_nobody_when_it_wakes() -> None:
    sim = Simulation(4, seed=11)
    sleeper = sim.nodes[1]
    sleeper.frozen_until = sim.now + 4
    for other in (2, 3, 4):
        sim.cuts.add((other, 1))  # what was sent meanwhile is lost, as when a machine is suspended
    sim.run(4)
    sim.cuts.clear()
    sim.run(5)
    assert not sleeper.when("is dead")
    assert not sleeper.when("is suspect")
    assert all(sim.nodes[i].state(1) is ALIVE for i in (2, 3, 4))


@settings(max_examples=tries(30), deadline=None)
@given(seed=st.integers(0, 2**32), pauses=st.lists(st.floats(0.05, 1.2), min_size=1, max_size=5))
def test_short_pauses_of_a_node_never_make_it_declare_a_living_one_dead(
    seed: int, pauses: list[float]
) -> None:
    sim = Simulation(3, seed)
    for pause in pauses:
        sim.nodes[1].frozen_until = sim.now + pause
        sim.run(pause + sim.rng.uniform(0.05, 0.6))
    sim.run(1)
    assert not sim.nodes[1].when("is dead")


def test_a_restart_within_the_detection_time_is_noticed_and_is_no_death() -> None:
    sim = Simulation(3, seed=12)
    sim.kill(2)
    sim.run(0.4)
    sim.boot(2)
    sim.run(0.3)
    for node in (sim.nodes[1], sim.nodes[3]):
        assert node.state(2) is ALIVE
        assert node.when(f"{name(2)} restarted")
    sim.run(4)
    assert sim.false_deaths() == []


def test_a_goodbye_is_no_death_and_a_return_is_noticed() -> None:
    sim = Simulation(3, seed=13)
    leaving = sim.nodes[3]
    leaving.send(leaving.roster.targets(sim.now), Goodbye())
    sim.kill(3)
    sim.run(3)
    assert [sim.nodes[i].state(3) for i in (1, 2)] == [LEFT, LEFT]
    assert sim.false_deaths() == []
    sim.boot(3)
    sim.run(1)
    assert [sim.nodes[i].state(3) for i in (1, 2)] == [ALIVE, ALIVE]


def test_a_node_that_knows_one_member_gets_to_know_all_and_is_forgotten_when_it_is_gone_for_good() -> None:
    sim = Simulation(3, seed=14)
    newcomer = sim.boot(9, peers=[1])
    sim.run(2)
    assert all(newcomer.state(i) is ALIVE for i in (1, 2, 3))
    assert all(sim.nodes[i].state(9) is ALIVE for i in (1, 2, 3))
    sim.kill(9, host=True)
    sim.run(TIMERS.leave_after - 5)
    assert all(sim.nodes[i].state(9) is DEAD for i in (1, 2, 3))
    sim.run(10)
    assert all(sim.nodes[i].state(9) is None for i in (1, 2, 3))
    sim.run(10)
    assert all(sim.nodes[i].state(9) is None for i in (1, 2, 3)), (
        "forgotten members must not come back as rumours"
    )


def test_a_machine_whose_clock_went_back_is_heard_again_soon() -> None:
    sim = Simulation(3, seed=15)
    sim.kill(2)
    sim.run(10)
    node = sim.boot(2)
    node.roster.incarnation = 0  # as if it had started before its former self
    sim.run(3)
    assert [sim.nodes[i].state(2) for i in (1, 3)] == [ALIVE, ALIVE]
    assert node.when("clock went back")
