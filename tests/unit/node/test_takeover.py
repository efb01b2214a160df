"""When a standby node takes over, and when it gives back: plain data in, decisions out."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.cluster.view import (
    EngineReport,
    EngineState,
    Member,
    MemberState,
    NodeReport,
    Offer,
    SeatReport,
    SeatState,
    View,
)
from shoal.config import Config
from shoal.node.takeover import Cover, Release, Takeover
from support.configs import config
from support.thorough import tries

ALIVE, SUSPECT, DEAD = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD
LEFT, UNKNOWN = MemberState.LEFT, MemberState.UNKNOWN
A, B, C = "a:1", "b:1", "c:1"
S, T, HOT = "s:1", "t:1", "z:1"
ME = S


def cluster(extra: str = "", model: str = "{path: m}") -> Config:
    nodes = "".join(f"{{host: {h}, port: 1}}, " for h in "abc")
    return config(f"""
        nodes: [{nodes} {{host: s, port: 1, role: standby}}, {{host: t, port: 1, role: standby}} {extra}]
        model: {model}
        cluster: {{heartbeat_interval: 0.5}}
        recovery: {{takeover_after: 5, return_after: 30}}
        engines: {{start_timeout: 100}}
    """)


CONFIG = cluster()


def member(
    name: str,
    state: MemberState = ALIVE,
    engines: int = 1,
    first: EngineState = EngineState.READY,
    **more: object,
) -> Member:
    """Return a member with some engines, all ready but perhaps the first."""
    states = [first, *[EngineState.READY] * (engines - 1)][:engines]
    ready = tuple(
        EngineReport(id=f"m-{i}", model="m", kind="vllm", state=s, host="h") for i, s in enumerate(states)
    )
    report = NodeReport(**({"name": name, "version": "1", "engines": ready} | more))  # type: ignore[arg-type]
    return Member(name=name, state=state, report=None if state is UNKNOWN else report)


def seen(*members: Member, me: str = ME, isolated: bool = False) -> View:
    """Return a view in which everybody not given is alive, standby nodes without an engine."""
    given_ = {m.name: m for m in members}
    rest = [member(n) for n in (A, B, C)] + [member(n, engines=0, role="standby") for n in (S, T)]
    merged = {m.name: m for m in rest} | given_
    return View(me=me, members=tuple(sorted(merged.values(), key=lambda m: m.name)), isolated=isolated)


def times(takeover: Takeover, view: View, *at: float, answers: dict[str, bool] | None = None):
    """Ask at each of these times; return the last decision, and fail if there was one before it."""
    for now in at[:-1]:
        assert takeover.decide(view, answers or {}, now) is None
    return takeover.decide(view, answers or {}, at[-1])


def test_a_node_that_is_dead_for_long_enough_is_taken_over_for():
    takeover = Takeover(CONFIG, ME)
    decision = times(takeover, seen(member(B, DEAD)), 100.0, 104.9, 105.0)
    assert decision == Cover(B, "standby s:1 takes over for b:1: that node is dead, 5 s by now")
    assert takeover.covers == B
    assert times(takeover, seen(member(B, DEAD)), 106.0, 1000.0) is None


@pytest.mark.parametrize("state", [ALIVE, SUSPECT])
def test_a_node_that_may_live_is_not_taken_over_for(state: MemberState):
    assert times(Takeover(CONFIG, ME), seen(member(B, state)), 0.0, 1e6) is None


def test_a_node_that_left_is_taken_over_for_and_one_that_drains_not_yet():
    takeover = Takeover(CONFIG, ME)
    assert times(takeover, seen(member(B, draining=True)), 0.0, 50.0) is None
    decision = times(takeover, seen(member(B, LEFT)), 60.0, 65.0)
    assert decision == Cover(B, "standby s:1 takes over for b:1: that node left, 5 s by now")


def test_a_node_nobody_ever_heard_of_gets_the_time_an_engine_has_to_start():
    decision = times(Takeover(CONFIG, ME), seen(member(B, UNKNOWN)), 0.0, 99.0, 100.0)
    assert decision == Cover(B, "standby s:1 takes over for b:1: that node was never heard of, 100 s by now")


def test_a_standby_that_hears_hardly_anybody_at_its_start_takes_nothing_over():
    silent = seen(member(A, UNKNOWN), member(B, UNKNOWN), member(C, UNKNOWN))
    assert times(Takeover(CONFIG, ME), silent, 0.0, 1e6) is None


def test_the_time_begins_anew_when_the_node_was_there_in_between():
    takeover = Takeover(CONFIG, ME)
    assert times(takeover, seen(member(B, DEAD)), 0.0, 4.0) is None
    assert times(takeover, seen(), 4.5) is None
    assert times(takeover, seen(member(B, DEAD)), 5.0, 9.9) is None
    assert isinstance(times(takeover, seen(member(B, DEAD)), 10.0), Cover)


def test_nothing_is_taken_over_while_this_node_counts_itself_cut_off_and_the_time_begins_after_it():
    takeover = Takeover(CONFIG, ME)
    lost = (member(A, DEAD), member(B, DEAD), member(C, DEAD))
    assert times(takeover, seen(*lost), 0.0, 4.0) is None
    assert times(takeover, seen(*lost, isolated=True), 5.0, 1000.0) is None
    assert times(takeover, seen(*lost), 1000.5, 1005.0) is None
    assert isinstance(times(takeover, seen(*lost), 1005.5), Cover)


def test_a_dead_node_whose_engines_all_serve_on_is_not_lost():
    takeover = Takeover(CONFIG, ME)
    view = seen(member(B, DEAD, engines=2))
    both = {"b:1/m-0": True, "b:1/m-1": True}
    assert times(takeover, view, 0.0, 1000.0, answers=both) is None
    one = both | {"b:1/m-1": False}
    assert isinstance(times(takeover, view, 1001.0, 1006.0, answers=one), Cover)


def test_only_serving_nodes_with_models_of_their_own_are_taken_over_for():
    pinned = cluster(", {host: g, port: 1, role: gateway}", "{path: m, nodes: ['a:1']}")
    gone = (member(B, DEAD), member("g:1", DEAD), member(T, DEAD), member("x:1", DEAD))
    assert times(Takeover(pinned, ME), seen(*gone), 0.0, 1e6) is None
    assert isinstance(times(Takeover(pinned, ME), seen(*gone, member(A, DEAD)), 0.0, 5.0), Cover)


def test_of_more_lost_nodes_than_standbys_the_first_is_covered_and_only_one_at_a_time():
    takeover = Takeover(CONFIG, ME)
    lost = seen(member(C, DEAD), member(B, DEAD))
    assert times(takeover, lost, 0.0, 5.0) == Cover(B, takeover_sentence(B))
    assert times(takeover, lost, 6.0, 1000.0) is None


def takeover_sentence(node: str) -> str:
    return f"standby s:1 takes over for {node}: that node is dead, 5 s by now"


def test_the_second_in_line_waits_for_the_first_and_takes_what_is_left():
    lost = (member(A, DEAD), member(B, DEAD))
    second = Takeover(CONFIG, T)
    assert times(second, seen(*lost, me=T), 0.0, 5.9) is None
    announced = member(S, engines=0, covers=A)
    assert times(second, seen(*lost, announced, me=T), 5.95).node == B


def test_those_that_become_free_together_stand_in_line_for_a_node_that_is_lost_for_long():
    """Each was back from its own takeover when a third node had been lost for a minute: both went for it."""
    first, second = Takeover(CONFIG, S, A), Takeover(CONFIG, T, B)
    busy = {S: A, T: B}
    covers: list[tuple[float, str]] = []
    for step in range(200):
        now, announced = step / 4, dict(busy)
        for name, takeover in ((S, first), (T, second)):
            others = [member(n, engines=0, covers=c) for n, c in announced.items() if n != name]
            view = seen(member(C, DEAD), *others, me=name)
            if isinstance(takeover.decide(view, {}, now), Cover):
                covers.append((now, name))
            busy[name] = takeover.covers
    assert covers == [(31.0, S)]


def test_a_first_in_line_that_does_not_act_is_passed_over():
    second = Takeover(CONFIG, T)
    assert times(second, seen(member(A, DEAD), me=T), 0.0, 5.9, 6.0).node == A


@pytest.mark.parametrize(
    "first", [member(S, DEAD, 0), member(S, engines=0, draining=True), member(S, engines=0, covers=C)]
)
def test_one_that_is_gone_or_busy_does_not_stand_in_line(first: Member):
    second = Takeover(CONFIG, T)
    assert times(second, seen(member(A, DEAD), first, me=T), 0.0, 5.0).node == A


def test_hot_standbys_come_first_in_line():
    mixed = cluster(", {host: z, port: 1, role: standby, standby: hot}")
    spare = member(HOT, role="standby")
    assert times(Takeover(mixed, HOT), seen(member(A, DEAD), spare, me=HOT), 0.0, 5.0).node == A
    assert times(Takeover(mixed, S), seen(member(A, DEAD), spare), 0.0, 5.5) is None


def test_what_another_standby_covers_is_left_to_it_while_it_is_there_or_its_engines_serve():
    takeover = Takeover(CONFIG, ME)
    for state in (ALIVE, SUSPECT):
        view = seen(member(A, DEAD), member(T, state, covers=A))
        assert times(takeover, view, 0.0, 1000.0) is None
    gone = seen(member(A, DEAD), member(T, DEAD, covers=A))
    assert times(takeover, gone, 2000.0, 3000.0, answers={"t:1/m-0": True}) is None
    assert isinstance(times(takeover, gone, 3001.0, answers={"t:1/m-0": False}), Cover)


def test_of_two_that_cover_the_same_node_the_higher_name_lets_go():
    rival = member(T, engines=0, covers=A)
    assert times(Takeover(CONFIG, S, A), seen(member(A, DEAD), rival), 0.0, 1000.0) is None
    second = Takeover(CONFIG, T, A)
    mine = member(S, engines=0, covers=A)
    assert times(second, seen(member(A, DEAD), mine, me=T), 0.0) == Release(
        A, "standby t:1 lets go of a:1: s:1 takes over for it too"
    )
    assert second.covers == ""


@pytest.mark.parametrize("state", [SUSPECT, DEAD])
def test_a_rival_that_is_not_surely_there_changes_nothing(state: MemberState):
    mine = member(S, state, engines=0, covers=A)
    assert times(Takeover(CONFIG, T, A), seen(member(A, DEAD), mine, me=T), 0.0, 1000.0) is None


def test_it_gives_back_when_the_node_was_back_with_all_engines_ready_for_long_enough():
    takeover = Takeover(CONFIG, ME, B)
    assert times(takeover, seen(member(B)), 0.0, 29.9) is None
    assert times(takeover, seen(member(B)), 30.0) == Release(
        B, "standby s:1 gives back to b:1: that node is back and has been ready for 30 s"
    )
    assert takeover.covers == ""


@pytest.mark.parametrize(
    "setback", [member(B, DEAD), member(B, SUSPECT), member(B, engines=0), member(B, draining=True)]
)
def test_the_time_to_give_back_begins_anew_when_the_node_is_not_ready_in_between(setback: Member):
    takeover = Takeover(CONFIG, ME, B)
    assert times(takeover, seen(member(B)), 0.0, 20.0) is None
    assert times(takeover, seen(setback), 25.0) is None
    assert times(takeover, seen(member(B)), 26.0, 55.0) is None
    assert isinstance(times(takeover, seen(member(B)), 56.0), Release)


def test_one_engine_that_does_not_get_ready_keeps_the_standby_in_place():
    assert (
        times(Takeover(CONFIG, ME, B), seen(member(B, engines=2, first=EngineState.STARTING)), 0.0, 1000.0)
        is None
    )


def test_a_node_that_is_no_longer_in_the_file_is_let_go_of():
    assert times(Takeover(CONFIG, ME, "gone:1"), seen(), 0.0) == Release(
        "gone:1", "standby s:1 lets go of gone:1: it is no serving node of the file"
    )


# -- several standby nodes together ------------------------------------------------------------------------------

SERVING, STANDBYS = ("a:1", "b:1", "c:1"), ("s:1", "t:1", "u:1", "z:1")
FLEET = cluster(", {host: u, port: 1, role: standby}, {host: z, port: 1, role: standby, standby: hot}")
STEP = 0.25


class Fleet:
    """Four standby nodes that see each other as the links between them allow, and three serving nodes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dead: set[str] = set()
        self.cut: set[frozenset[str]] = set()
        self.isolated: set[str] = set()
        self.late: dict[str, float] = {}
        self.takeovers = {name: Takeover(FLEET, name) for name in STANDBYS}

    def state(self, of: str, seen_by: str) -> MemberState:
        return DEAD if of in self.dead or frozenset((of, seen_by)) in self.cut else ALIVE

    def view(self, me: str, announced: dict[str, str]) -> View:
        members = [
            member(n, self.state(n, me), engines=int(n in SERVING), covers=announced.get(n, ""))
            for n in (*SERVING, *STANDBYS)
        ]
        return View(me=me, members=tuple(members), isolated=me in self.isolated)

    def step(self) -> None:
        """Everybody decides on what was announced before this step: news takes a step to arrive."""
        announced = {n: t.covers for n, t in self.takeovers.items()}
        for name, takeover in self.takeovers.items():
            if name in self.dead:
                self.takeovers[name] = Takeover(FLEET, name)
                continue
            decision = takeover.decide(self.view(name, announced), {}, self.now + self.late.get(name, 0.0))
            assert not (isinstance(decision, Cover) and name in self.isolated), "no takeover while cut off"
        self.now += STEP

    def covered(self) -> list[str]:
        alive = [t for n, t in self.takeovers.items() if n not in self.dead]
        return sorted(t.covers for t in alive if t.covers)


events = st.lists(
    st.tuples(
        st.sampled_from(["die", "return", "cut", "heal", "isolate", "release"]),
        st.sampled_from((*SERVING, *STANDBYS)),
        st.sampled_from((*SERVING, *STANDBYS)),
        st.integers(1, 40),
    ),
    max_size=15,
)


@settings(max_examples=tries(150), deadline=None)
@example(
    [
        ("die", S, S, 1),
        ("cut", A, "u:1", 1),
        ("cut", C, HOT, 20),
        ("die", B, B, 1),
        ("die", T, T, 1),
    ],
    dict.fromkeys(STANDBYS, 0.0),
)
@given(events, st.fixed_dictionaries(dict.fromkeys(STANDBYS, st.floats(0, 0.7))))
def test_standbys_that_hear_each_other_never_go_on_covering_the_same_node(
    happens: list[tuple[str, str, str, int]], late: dict[str, float]
):
    fleet = Fleet()
    fleet.late = late
    for what, one, other, steps in happens:
        match what:
            case "die":
                fleet.dead.add(one)
            case "return":
                fleet.dead.discard(one)
            case "cut" if one != other:
                fleet.cut.add(frozenset((one, other)))
            case "heal":
                fleet.cut.discard(frozenset((one, other)))
            case "isolate":
                fleet.isolated.add(one)
            case "release":
                fleet.isolated.discard(one)
            case _:
                pass
        for _ in range(steps):
            fleet.step()
    fleet.cut.clear()
    for _ in range(8):  # views have converged: who covers one with another lets go
        fleet.step()
    for _ in range(int(60 / STEP)):
        fleet.step()
        assert len(set(fleet.covered())) == len(fleet.covered())
    fleet.isolated.clear()
    for _ in range(int(60 / STEP)):
        fleet.step()
    lost = sorted(n for n in SERVING if n in fleet.dead)
    able = sum(n not in fleet.dead for n in STANDBYS)
    assert fleet.covered() == (lost if able >= len(lost) else fleet.covered())
    assert len(fleet.covered()) == min(able, len(lost))


# Engines across nodes.


def seat(
    group: str, state: SeatState = SeatState.RUNNING, leader: str = A, *, offers: bool = False
) -> SeatReport:
    offer = Offer(generation=3, members=(A, B), host="h", port=1, tokens=(1, 2)) if offers else None
    return SeatReport(
        engine="m-0", group=group, model="m", rank=0, state=state, generation=3, leader=leader, offer=offer
    )


def ask(takeover: Takeover, view: View, *at: float, lifelines: dict[str, bool]):
    decisions = [takeover.decide(view, {}, now, lifelines) for now in at]
    return decisions[-1]


def test_a_node_with_a_part_of_an_engine_that_lives_is_not_taken_over_for_though_its_node_process_is_dead():
    leads = member(A, seats=(seat("g", offers=True),))
    part = member(B, DEAD, engines=0, seats=(seat("g"),))
    alive = {"b:1/m-0": True}
    assert ask(Takeover(CONFIG, ME), seen(leads, part), 0.0, 1e6, lifelines=alive) is None
    lost = ask(Takeover(CONFIG, ME), seen(leads, part), 0.0, 5.0, lifelines={"b:1/m-0": False})
    assert isinstance(lost, Cover)
    over = member(A, seats=(seat("g"),))  # its leader has ended the engine: what is left there serves nobody
    assert isinstance(ask(Takeover(CONFIG, ME), seen(over, part), 0.0, 5.0, lifelines=alive), Cover)


def test_a_place_is_given_back_only_when_the_lost_node_has_its_part_again():
    takeover = Takeover(CONFIG, ME, B)
    leads = member(A, seats=(seat("g", offers=True),))
    waits = member(B, engines=0, seats=(seat("g", SeatState.FREE),))
    assert times(takeover, seen(leads, waits), 0.0, 1000.0) is None
    back = member(B, engines=0, seats=(seat("g"),))
    loading = member(A, first=EngineState.STARTING, seats=(seat("g", offers=True),))
    assert times(takeover, seen(loading, back), 1001.0, 2000.0) is None
    assert isinstance(times(takeover, seen(leads, back), 2001.0, 2031.0), Release)
