from __future__ import annotations

from shoal.cluster.identity import IdentityCheck
from shoal.cluster.view import Heard

ME, INTERVAL, OURS = "10.0.0.1:8000", 0.5, 1_000


def check() -> IdentityCheck:
    return IdentityCheck(ME, OURS, INTERVAL, now=0.0)


def heard(age_ms: int | None, incarnation: int = 900) -> Heard:
    return Heard(incarnation, age_ms, "10.0.0.9", 8000)


def test_an_empty_cluster_is_clear_after_one_interval() -> None:
    subject = check()
    assert not subject.clear(0.4)
    assert subject.clear(0.5)
    assert subject.conflict() is None


def test_members_that_never_heard_the_name_make_it_clear_sooner() -> None:
    subject = check()
    subject.answered("b:1", None, 0.01)
    assert subject.clear(0.25)


def test_a_process_whose_heartbeats_go_on_is_a_conflict() -> None:
    subject = check()
    subject.answered("b:1", heard(200), 0.01)  # before the check began
    subject.answered("b:1", heard(50), 0.4)
    assert subject.conflict() is None
    assert not subject.clear(0.6)
    subject.answered("b:1", heard(20), 0.9)
    error = subject.conflict()
    assert error is not None
    assert str(error).startswith("a node 10.0.0.1:8000 already runs: b:1 hears it from 10.0.0.9:8000.")
    assert not subject.clear(100)


def test_a_former_self_that_was_killed_a_moment_ago_is_none() -> None:
    subject = check()
    for step in range(12):
        now = step * 0.1
        subject.answered("b:1", heard(100 + int(now * 1000)), now)
        subject.answered("c:1", heard(150 + int(now * 1000)), now)
    assert subject.conflict() is None
    assert not subject.clear(0.9)
    assert subject.clear(1.1)


def test_one_last_heartbeat_read_late_by_several_members_is_none() -> None:
    subject = check()
    subject.answered("b:1", heard(0), 0.10)
    subject.answered("c:1", heard(0), 0.12)
    subject.answered("d:1", heard(0), 0.30)
    assert subject.conflict() is None
    assert subject.clear(0.30 + 1.11)


def test_what_is_heard_of_this_process_itself_is_none() -> None:
    subject = check()
    for now in (0.1, 0.6, 1.1):
        subject.answered("b:1", heard(0, OURS), now)
    assert subject.conflict() is None


def test_a_process_that_answers_for_itself_is_a_conflict() -> None:
    subject = check()
    subject.met(2_000, ("10.0.0.9", 8000), 0.02)
    subject.met(2_000, ("10.0.0.9", 8000), 0.13)
    assert subject.conflict() is None
    subject.met(2_000, ("10.0.0.9", 8000), 0.28)
    assert "it answered from 10.0.0.9:8000" in str(subject.conflict())


def test_the_incarnation_is_above_every_former_one_even_if_the_clock_went_back() -> None:
    subject = check()
    assert subject.incarnation == OURS
    subject.answered("b:1", heard(None, 5_000), 0.1)
    subject.answered("c:1", heard(60_000, 4_000), 0.1)
    assert subject.incarnation == 5_001
    assert subject.clear(0.3)
