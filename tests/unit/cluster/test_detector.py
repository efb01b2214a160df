from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cluster.detector import Change, Detector, Forget, Inquire, Notice, Output, Timers
from shoal.cluster.view import MemberState
from support.thorough import tries

ALIVE, SUSPECT, DEAD = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD
DEFAULTS = Timers()


def detector(*members: str, timers: Timers = DEFAULTS) -> Detector:
    """A detector that heard each of `members` at time 0."""
    made = Detector(timers, random.Random(1))
    made.resume(-0.4)
    for name in members:
        made.expect(name)
        made.heard(name, 1, 0.0)
    return made


def run(subject: Detector, until: float, hear: tuple[str, ...] = (), start: float = 0.0) -> list[Output]:
    """Tick exactly when wanted; heartbeats of `hear` come every interval after `start`."""
    out: list[Output] = []
    beat = start + subject.timers.interval
    while True:
        now = min(subject.due, beat)
        if now > until:
            return out
        if beat <= now:
            for name in hear:
                out += subject.heard(name, 1, now)
            beat += subject.timers.interval
        else:
            out += subject.tick(now)


def sentences(out: list[Output]) -> list[str]:
    return [o.sentence for o in out if isinstance(o, Change | Notice | Forget)]


def test_the_defaults_find_a_death_in_less_than_two_seconds() -> None:
    assert DEFAULTS.suspect_silence == pytest.approx(1.5)
    assert DEFAULTS.dead_silence == pytest.approx(1.9)
    assert DEFAULTS.dead_silence < 2.0 < DEFAULTS.suspect_limit


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"suspect_after": 0}, {"confirm_timeout": -1}])
def test_timers_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above zero"):
        Timers(**wrong)


def test_silence_makes_suspect_then_dead_at_the_promised_times() -> None:
    subject = detector("b", "c")
    out = run(subject, 1.49, hear=("c",))
    assert (out, subject.state("b")) == ([], ALIVE)
    run(subject, 1.51, hear=("c",), start=1.0)
    assert subject.state("b") is SUSPECT
    run(subject, 1.89, hear=("c",), start=1.5)
    assert subject.state("b") is SUSPECT
    out = run(subject, 1.91, hear=("c",), start=1.5)
    assert subject.state("b") is DEAD
    assert sentences(out) == ["node b is dead: no heartbeat for 1.9 s, and nobody answered for it"]
    assert subject.state("c") is ALIVE


def test_a_suspect_is_asked_its_gateway_tried_and_two_others_asked_several_times() -> None:
    subject = detector("b", "c", "d", "e")
    out = run(subject, 1.85, hear=("c", "d", "e"))
    asked = [o for o in out if isinstance(o, Inquire)]
    assert len(asked) == 4
    assert [o.connect for o in asked] == [True, False, False, False]
    for inquiry in asked:
        assert inquiry.target == "b"
        assert len(set(inquiry.peers)) == 2
        assert set(inquiry.peers) < {"c", "d", "e"}


def test_two_members_and_a_refused_connection_are_enough_at_once() -> None:
    subject = detector("b", "c", "d")
    run(subject, 1.55, hear=("c", "d"))
    assert subject.probed("b", None, False, 1.56) == []
    assert subject.probed("b", "c", False, 1.57) == []
    (death,) = subject.probed("b", "d", False, 1.58)
    assert isinstance(death, Change)
    assert death.sentence == "node b is dead: no heartbeat for 1.6 s, 2 members and a TCP probe agree"


def test_without_other_members_a_refused_connection_alone_waits_for_the_timeout() -> None:
    subject = detector("b")
    run(subject, 1.55)
    assert subject.probed("b", None, False, 1.56) == []
    assert subject.state("b") is SUSPECT
    (sentence,) = sentences(run(subject, 1.91, start=1.5))
    assert sentence == "node b is dead: no heartbeat for 1.9 s, a TCP probe agrees"


def test_a_heartbeat_ends_suspicion() -> None:
    subject = detector("b")
    run(subject, 1.6)
    (change,) = subject.heard("b", 1, 1.6)
    assert isinstance(change, Change)
    assert (change.old, change.new) == (SUSPECT, ALIVE)
    assert change.sentence == "node b is alive again after 1.6 s"


def test_a_member_that_another_one_hears_stays_suspect_but_not_for_ever() -> None:
    subject = detector("b", "c")
    out: list[Output] = []
    for step in range(1, 40):
        now = step * 0.5
        out += run(subject, now, hear=("c",), start=now - 0.5)
        subject.heard_by("b", "c", 1, 0.1, now)
        if subject.state("b") is DEAD:
            break
    assert now == pytest.approx(DEFAULTS.suspect_limit)
    assert "node b stays suspect: no heartbeat here, but c hears it" in sentences(out)
    assert "although c hears it" in sentences(out)[-1]


def test_an_old_sign_of_life_counts_from_its_own_time() -> None:
    subject = detector("b", "c")
    run(subject, 1.6, hear=("c",))
    subject.heard_by("b", "c", 1, age=1.3, now=1.6)  # c heard it last at 0.3
    run(subject, 2.19, hear=("c",), start=1.5)
    assert subject.state("b") is SUSPECT
    run(subject, 2.21, hear=("c",), start=2.0)
    assert subject.state("b") is DEAD


def test_what_is_said_of_a_former_life_is_no_sign_of_life() -> None:
    subject = detector("b")
    subject.heard("b", 5, 0.0)
    subject.heard_by("b", "c", 4, 0.0, 1.6)
    assert subject.heard("b", 4, 1.6) == []
    run(subject, 1.91)
    assert subject.state("b") is DEAD


def test_an_accepted_connection_is_a_sign_of_life() -> None:
    subject = detector("b")
    run(subject, 1.6)
    subject.probed("b", None, True, 1.6)
    run(subject, 3.4, start=1.5)
    assert subject.state("b") is SUSPECT
    run(subject, 3.51, start=3.4)
    assert subject.state("b") is DEAD


def test_a_newer_process_is_a_restart() -> None:
    subject = detector("b")
    (change,) = subject.heard("b", 2, 0.3)
    assert isinstance(change, Change)
    assert (change.old, change.new, change.sentence) == (ALIVE, ALIVE, "node b restarted")


def test_a_member_of_the_file_is_never_forgotten_and_another_one_is() -> None:
    subject = detector("b", "keeps")
    subject.heard("x", 1, 0.0)
    out = run(subject, 320, hear=("keeps",))
    assert subject.state("b") is DEAD
    assert subject.state("x") is None
    assert [o.name for o in out if isinstance(o, Forget)] == ["x"]


def test_a_member_that_was_never_heard_stays_unknown() -> None:
    subject = Detector(DEFAULTS)
    subject.expect("b")
    subject.resume(0)
    run(subject, 400)
    assert subject.state("b") is MemberState.UNKNOWN
    assert subject.age("b", 400) is None


def test_goodbye_is_no_death() -> None:
    subject = detector("b", "c")
    (change,) = subject.left("b", 0.2)
    assert isinstance(change, Change)
    assert change.sentence == "node b left"
    assert subject.left("b", 0.3) == []
    run(subject, 5, hear=("c",))
    assert subject.state("b") is MemberState.LEFT


def test_a_late_tick_judges_nobody_before_waiting_heartbeats_could_be_read() -> None:
    subject = detector("b")
    assert subject.tick(0.1) == []
    assert subject.tick(0.7) == []
    assert subject.tick(5.0) == []
    assert subject.due <= 5.05
    subject.heard("b", 1, 5.01)
    assert run(subject, 6.0, hear=("b",), start=5.01) == []


def test_late_ticks_only_do_not_keep_a_dead_member_alive() -> None:
    subject = detector("b")
    now = 0.0
    while subject.state("b") is not DEAD:
        now = subject.due + 0.2  # this node is so busy that every single tick is late
        subject.tick(now)
        assert now < 4


@settings(max_examples=tries(200), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["heard", "heard_by", "probed", "left", "tick", "wait"]),
            st.sampled_from("bcde"),
            st.sampled_from("bcde"),
            st.integers(1, 3),
            st.floats(0, 3),
        ),
        max_size=60,
    )
)
def test_whatever_happens_states_follow_the_rules(  # noqa: PLR0912 - one branch per event
    events: list[tuple[str, str, str, int, float]],
) -> None:
    subject = Detector(DEFAULTS, random.Random(1))
    subject.expect("b")
    subject.resume(0.0)
    now, last_heard = 0.0, dict.fromkeys("bcde", (0, float("-inf")))
    for kind, name, other, incarnation, amount in events:
        match kind:
            case "heard":
                subject.heard(name, incarnation, now)
                if incarnation >= last_heard[name][0]:
                    last_heard[name] = (incarnation, now)
                    assert subject.state(name) is ALIVE
            case "heard_by":
                subject.heard_by(name, other, incarnation, amount, now)
            case "probed":
                subject.probed(name, None if other == name else other, amount > 1.5, now)
            case "left":
                subject.left(name, now)
            case "tick":
                subject.tick(now)
            case _:
                end = now + amount
                while subject.due <= end:
                    now = max(now, subject.due)
                    before = {n: subject.state(n) for n in subject.names()}
                    out = subject.tick(now)
                    assert subject.due > now, "the next tick must lie ahead"
                    for change in (o for o in out if isinstance(o, Change)):
                        assert change.old is before[change.name]
                        silence = now - last_heard[change.name][1]
                        if change.new is DEAD:
                            assert change.old is SUSPECT
                            assert silence >= DEFAULTS.suspect_silence - 0.01
                now = max(now, end)
        for member in subject.names():
            if subject.state(member) is ALIVE:
                assert now - last_heard[member][1] <= 3 * DEFAULTS.dead_silence + 3.1
