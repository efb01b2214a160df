from __future__ import annotations

from shoal.cluster.brake import Brake, Sign
from shoal.cluster.view import MemberState

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
NOW = 100.0


def brake() -> Brake:
    return Brake(interval=0.5, detection=1.9)


def signs(**members: tuple[MemberState, float]) -> list[Sign]:
    """Members with their state and the seconds since their last sign of life at NOW."""
    return [Sign(name, state, NOW - silence) for name, (state, silence) in members.items()]


def test_most_members_gone_at_once_sets_the_brake() -> None:
    subject = brake()
    sentence = subject.apply(signs(a=(DEAD, 1.9), b=(SUSPECT, 1.6), c=(ALIVE, 0.2)), NOW)
    assert sentence is not None
    assert sentence.startswith("2 of 3 members vanished")
    assert subject.isolated


def test_a_member_that_is_merely_overdue_counts_as_gone_when_another_one_dies() -> None:
    subject = brake()
    assert subject.apply(signs(a=(DEAD, 1.9), b=(ALIVE, 1.4)), NOW)


def test_one_of_two_or_half_of_many_is_not_most() -> None:
    assert brake().apply(signs(a=(DEAD, 1.9), b=(ALIVE, 0.1)), NOW) is None
    assert brake().apply(signs(a=(DEAD, 1.9)), NOW) is None
    half = signs(a=(DEAD, 1.9), b=(DEAD, 1.9), c=(ALIVE, 0.1), d=(ALIVE, 0.1))
    assert brake().apply(half, NOW) is None


def test_deaths_long_ago_and_goodbyes_do_not_count() -> None:
    assert brake().apply(signs(a=(DEAD, 1.9), b=(DEAD, 30), c=(LEFT, 1), d=(ALIVE, 0.1)), NOW) is None


def test_a_return_of_one_that_was_dead_releases_after_a_detection_time() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(DEAD, 1.9)), NOW)
    back = [Sign("a", ALIVE, NOW + 5), Sign("b", DEAD, NOW - 1.9)]
    assert subject.release(back, NOW + 5) is None
    assert subject.isolated
    assert subject.release_at == NOW + 5 + 1.9
    sentence = subject.release(back, NOW + 6.9)
    assert sentence == "this node does not count as cut off any more: a heard again"
    assert not subject.isolated


def test_a_return_that_does_not_last_does_not_release() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(DEAD, 1.9)), NOW)
    subject.release([Sign("a", ALIVE, NOW + 5), Sign("b", DEAD, NOW)], NOW + 5)
    subject.release([Sign("a", SUSPECT, NOW + 5), Sign("b", DEAD, NOW)], NOW + 6.5)
    assert subject.release([Sign("a", SUSPECT, NOW + 5), Sign("b", DEAD, NOW)], NOW + 7) is None
    assert subject.release_at is None
    assert subject.isolated


def test_one_that_was_only_late_is_no_return_while_the_rest_is_still_most() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(SUSPECT, 1.7), c=(ALIVE, 1.0)), NOW)
    later = [Sign("a", DEAD, NOW - 1.9), Sign("b", DEAD, NOW - 1.7), Sign("c", ALIVE, NOW + 0.1)]
    for step in range(1, 100):
        assert subject.release(later, NOW + step) is None
    assert subject.isolated


def test_it_is_released_when_what_really_vanished_is_not_most() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(ALIVE, 0.9)), NOW)
    later = [Sign("a", DEAD, NOW - 1.9), Sign("b", ALIVE, NOW + 0.1)]
    assert subject.release(later, NOW + 0.1) is None
    assert subject.release(later, NOW + 2.1) is not None


def test_it_is_released_when_everybody_left_or_was_forgotten() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(DEAD, 1.9)), NOW)
    subject.release([Sign("a", LEFT, NOW)], NOW + 1)
    assert subject.release([], NOW + 3) is not None
    assert not subject.isolated


def test_a_new_member_does_not_release_it() -> None:
    subject = brake()
    subject.apply(signs(a=(DEAD, 1.9), b=(DEAD, 1.9)), NOW)
    members = [Sign("a", DEAD, NOW), Sign("b", DEAD, NOW), Sign("new", ALIVE, NOW + 60)]
    assert subject.release(members, NOW + 60) is None
    assert subject.isolated
