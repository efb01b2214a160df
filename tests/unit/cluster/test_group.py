"""What a node's part in a group decides, by what it hears."""

from __future__ import annotations

import msgspec

from shoal.cluster.group import Seat
from shoal.cluster.group_types import GroupTimers, Here, Meeting, Place
from shoal.cluster.view import Member, MemberState, NodeReport, Offer, SeatReport, SeatState, View

A, B = "a:1", "b:1"
GROUP = "a:1/m-0"
OFFER = Offer(generation=3, members=(A, B), host="h", port=1)
STARTED = msgspec.structs.replace(OFFER, tokens=(7, 8))
TIMERS = GroupTimers(join=5, again=1, grace=10, delay=lambda failures: 10.0 * failures)


def place(rank: int, **traits: str) -> Place:
    return Place(engine="m-0", group=GROUP, model="m", nodes=(A, B), rank=rank, traits=traits)


def report(
    name: str, *, version: str = "1", incarnation: int = 8, draining: bool = False, **seat: object
) -> NodeReport:
    seats = (SeatReport(engine="m-0", group=GROUP, model="m", rank=int(name == B), **seat),)  # type: ignore[arg-type]
    return NodeReport(name=name, version=version, incarnation=incarnation, seats=seats, draining=draining)


def view(me: str, other: NodeReport, state: MemberState = MemberState.ALIVE, incarnation: int = 8) -> View:
    own = Member(name=me, state=MemberState.ALIVE, report=report(me, incarnation=incarnation), is_self=True)
    members = sorted([own, Member(name=other.name, state=state, report=other)], key=lambda m: m.name)
    return View(me=me, members=tuple(members))


def follower(generation: int = 0) -> Seat:
    return Seat(B, place(1), TIMERS, 0.0, generation)


def leader(**traits: str) -> Seat:
    return Seat(A, place(0, **traits), TIMERS, 0.0)


HERE = Here(meeting=Meeting("h", 1))
RUNS = Here(running=3)


def started_follower() -> Seat:
    seat = follower()
    seat.step(view(B, report(A, offer=OFFER, generation=3, leader=A, token=7)), HERE, {}, 0.0)
    seat.step(view(B, report(A, offer=STARTED, generation=3, leader=A, token=7)), HERE, {}, 0.0)
    assert seat.terms == STARTED
    return seat


def started_leader() -> Seat:
    seat = leader()
    seat.generation = 2
    seat.step(view(A, report(B), incarnation=7), HERE, {}, 0.0)
    assert seat.offer == OFFER
    joined = report(B, generation=3, leader=A, token=8, state=SeatState.JOINED)
    seat.step(view(A, joined, incarnation=7), HERE, {}, 0.0)
    assert seat.terms == STARTED
    return seat


def test_a_member_joins_only_for_a_higher_generation_than_any_before():
    offered = view(B, report(A, offer=OFFER))
    for known, joins in ((2, True), (3, False), (9, False)):
        seat = follower(known)
        seat.step(offered, HERE, {}, 0.0)
        assert (seat.state is SeatState.JOINED) is joins


def test_a_member_does_not_join_what_has_been_started_already():
    seat = follower()
    seat.step(view(B, report(A, offer=STARTED)), HERE, {}, 0.0)
    assert seat.state is SeatState.FREE


def test_a_member_that_has_joined_anew_does_not_start_on_the_sign_for_its_former_self():
    seat = follower()
    seat.step(view(B, report(A, offer=OFFER), incarnation=9), HERE, {}, 0.0)
    assert (seat.state, seat.token) == (SeatState.JOINED, 9)
    seat.step(view(B, report(A, offer=STARTED), incarnation=9), HERE, {}, 0.0)
    assert (seat.state, seat.terms) == (SeatState.FREE, None)


def test_a_member_that_is_offered_a_generation_by_somebody_else_than_its_leader_does_not_join():
    other = msgspec.structs.replace(OFFER, members=("c:1", B))
    seat = follower()
    seat.step(view(B, report(A, offer=other)), HERE, {}, 0.0)
    assert seat.state is SeatState.FREE


def test_a_leader_ends_a_generation_that_a_member_has_joined_a_second_time():
    seat = started_leader()
    again = report(B, generation=3, leader=A, token=9, state=SeatState.JOINED)
    seat.step(view(A, again, incarnation=7), RUNS, {}, 1.0)
    assert (seat.state, seat.offer) == (SeatState.ENDING, None)
    assert seat.reason == f"node {B} has lost its process and begun anew"


def test_the_end_on_one_node_is_told_on_the_others_in_its_own_words():
    seat = started_leader()
    over = report(
        B, generation=3, leader=A, token=8, state=SeatState.ENDING, reason="its process on b:1 fell"
    )
    said = seat.step(view(A, over, incarnation=7), RUNS, {}, 1.0)
    assert said == [f"group {GROUP}: generation 3 has ended: its process on b:1 fell"]
    follows = started_follower()
    ended = report(A, generation=3, leader=A, token=7, state=SeatState.FREE, reason="its process on b:1 fell")
    assert follows.step(view(B, ended), RUNS, {}, 1.0) == said


def test_any_exit_ends_it_whatever_the_code():
    seat = started_follower()
    alive = view(B, report(A, offer=STARTED, generation=3, leader=A, token=7, state=SeatState.RUNNING))
    assert seat.step(alive, RUNS, {}, 1.0) == []
    seat.step(alive, Here(exit="exited with code 0"), {}, 2.0)
    assert (seat.state, seat.terms, seat.reason) == (
        SeatState.FREE,
        None,
        f"its process on {B} exited with code 0",
    )


def test_a_dead_node_ends_it_only_when_its_process_cannot_be_reached_either():
    said = report(A, offer=STARTED, generation=3, leader=A, token=7, state=SeatState.RUNNING)
    for answers, ends in (({}, False), ({GROUP: True}, False), ({GROUP: False}, True)):
        seat = started_follower()
        seat.step(view(B, said, MemberState.DEAD), RUNS, answers, 1.0)
        assert (seat.terms is None) is ends
    seat = started_follower()
    seat.step(view(B, said, MemberState.LEFT), RUNS, {GROUP: True}, 1.0)
    assert seat.terms is None


def test_after_its_own_restart_a_node_waits_some_time_to_hear_of_the_others():
    unheard = View(
        me=B,
        members=(
            Member(name=A, state=MemberState.UNKNOWN),
            Member(name=B, state=MemberState.ALIVE, report=report(B), is_self=True),
        ),
    )
    seat = follower()
    seat.resume(STARTED, 8)
    assert seat.step(unheard, RUNS, {}, 9.0) == []
    assert seat.terms == STARTED
    seat.step(unheard, RUNS, {}, 10.0)
    assert (seat.terms, seat.reason) == (None, f"node {A} was not heard of for 10 s")


def test_failures_in_a_row_make_the_leader_wait_longer_and_healthy_time_makes_them_forgotten():
    seat = started_leader()
    free = view(A, report(B, generation=3, leader=A, token=8), incarnation=7)
    seat.step(free, Here(exit="was killed by SIGKILL", meeting=HERE.meeting), {}, 1.0)
    assert seat.failures == 1
    seat.step(free, HERE, {}, 10.9)
    assert seat.offer is None
    seat.step(free, HERE, {}, 11.0)
    assert seat.offer is not None
    assert seat.offer.generation == 4
    joined = report(B, generation=4, leader=A, token=8, state=SeatState.JOINED)
    running = view(A, joined, incarnation=7)
    seat.step(running, HERE, {}, 12.0)
    seat.step(running, Here(running=4, ready=True), {}, 20.0)
    seat.step(running, Here(running=4, ready=True), {}, 140.0)
    seat.step(running, Here(exit="exited with code 0"), {}, 141.0)
    assert seat.failures == 1


def test_a_member_that_leaves_is_waited_for_until_the_engine_has_finished_and_is_no_failure():
    seat = started_leader()
    leaving = view(
        A, report(B, generation=3, leader=A, token=8, state=SeatState.RUNNING, draining=True), incarnation=7
    )
    assert seat.step(leaving, RUNS, {}, 1.0) == []
    assert (seat.drains, seat.terms) == (True, STARTED)
    seat.step(leaving, HERE, {}, 2.0)
    assert (seat.drains, seat.reason, seat.failures) == (False, f"node {B} leaves", 0)
    assert seat.waits == f"waits for node {B}: it leaves"


def test_unlike_members_are_refused_before_anything_starts_with_what_differs():
    seat = leader(vLLM="0.32.0")
    said = seat.step(view(A, report(B, traits={"vLLM": "0.31.0"})), HERE, {}, 0.0)
    assert said == [f"group {GROUP}: vLLM must be the same on all members: 0.32.0 on {A}, 0.31.0 on {B}"]
    assert seat.offer is None
    seat = leader()
    said = seat.step(view(A, report(B, version="2")), HERE, {}, 0.0)
    assert said == [f"group {GROUP}: versions differ: {B} runs Shoal 2, {A} runs 1"]


def test_an_offer_that_a_member_does_not_take_is_withdrawn_and_made_anew_later():
    seat = leader()
    silent = view(A, report(B), incarnation=7)
    seat.step(silent, HERE, {}, 0.0)
    seat.step(silent, HERE, {}, 4.9)
    assert seat.offer is not None
    said = seat.step(silent, HERE, {}, 5.0)
    assert said == [f"group {GROUP}: generation 1 is not started: {B} did not join within 5 s"]
    seat.step(silent, HERE, {}, 5.9)
    assert seat.offer is None
    seat.step(silent, HERE, {}, 6.0)
    assert seat.offer is not None
    assert seat.offer.generation == 2


def test_a_process_of_no_generation_that_this_node_is_in_has_to_go_before_it_is_free():
    seat = follower()
    offered = view(B, report(A, offer=OFFER))
    seat.step(offered, RUNS, {}, 0.0)
    assert seat.state is SeatState.ENDING
    seat.step(offered, RUNS, {}, 1.0)
    assert seat.state is SeatState.ENDING
    seat.step(offered, HERE, {}, 2.0)
    assert seat.state is SeatState.JOINED
