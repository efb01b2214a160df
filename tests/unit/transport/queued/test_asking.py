"""Which frames of which attempt make up an answer."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.queued.asking import LOST_AFTER, Action, Asking, Fail, Give, Send, Tell
from shoal.transport.queued.frames import Alive, Attempt, Broken, Cancel, Frame, Go, Head, Piece, Taken

SILENCE = 6.0


def attempt(token: str = "a", *, number: int = 0, delivery: int = 0) -> Attempt:
    return Attempt("call", number, delivery, token, f"inbox-{token}")


def head(of: Attempt, *, last: bool = False) -> Head:
    return Head(of, 200, (), "n/e", b"", last)


class Bench:
    def __init__(self, *, patient: bool = False, deadline: float | None = None) -> None:
        self.asking = Asking(redeliveries=2, silence=SILENCE)
        self.asking.open("call", patient=patient, deadline=deadline)

    def get(self, frame: Frame, now: float = 0.0) -> list[Action]:
        return list(self.asking.receive(frame, now))

    def tick(self, now: float = 0.0, time: float = 0.0) -> list[Action]:
        return list(self.asking.tick(now, time))


def stop(of: Attempt) -> Tell:
    return Tell(of.inbox, Cancel("call", of.token))


def test_frames_are_given_in_order_and_the_last_one_ends_the_call() -> None:
    bench, a = Bench(), attempt()
    assert bench.get(Taken(a)) == []
    frames: list[Head | Piece] = [head(a), Piece(a, 1, b"x", False), Piece(a, 2, b"y", True)]
    assert [bench.get(frame) for frame in frames] == [[Give(frame)] for frame in frames]
    assert len(bench.asking) == 0


def test_a_frame_that_comes_twice_is_given_once() -> None:
    bench, a = Bench(), attempt()
    piece = Piece(a, 1, b"x", False)
    given = [*bench.get(head(a)), *bench.get(head(a)), *bench.get(piece), *bench.get(piece)]
    assert given == [Give(head(a)), Give(piece)]


def test_a_gap_ends_the_call_and_stops_the_engine() -> None:
    bench, a = Bench(), attempt()
    bench.get(head(a))
    assert bench.get(Piece(a, 3, b"x", False)) == [
        stop(a),
        Fail("call", "2 pieces of the answer were lost on the way"),
    ]


def test_an_answer_without_its_beginning_is_a_gap_too() -> None:
    bench, a = Bench(), attempt()
    assert bench.get(Piece(a, 1, b"x", False))[0] == stop(a)


def test_a_redelivered_request_is_answered_by_the_second_node_as_long_as_nothing_was_given() -> None:
    bench, a, b = Bench(), attempt("a"), attempt("b", delivery=1)
    bench.get(Taken(a))
    assert bench.get(Taken(b)) == [stop(a)]
    assert bench.get(head(a)) == [stop(a)]  # it lives after all, and is not listened to
    assert bench.get(head(b, last=True)) == [Give(head(b, last=True))]


def test_answers_of_two_attempts_never_mix() -> None:
    bench, a, b = Bench(), attempt("a"), attempt("b", delivery=1)
    bench.get(head(a))
    why = "node inbox-a died with the answer under way"
    assert bench.get(Taken(b)) == [stop(b), Fail("call", why)]
    assert bench.get(head(b)) == [stop(b)]


def test_of_two_attempts_of_which_neither_is_newer_the_first_stays_while_it_lives() -> None:
    bench, a, b = Bench(), attempt("a"), attempt("b")
    bench.get(Taken(a), now=0.0)
    bench.get(Alive((a,)), now=5.0)
    assert bench.get(Taken(b), now=7.0) == [stop(b)]
    assert bench.get(Taken(b), now=5.0 + SILENCE) == [stop(a)]


def test_an_attempt_that_waits_may_begin_if_it_is_the_one_that_counts() -> None:
    bench, a, b, late = Bench(), attempt("a"), attempt("b"), attempt("late", number=0)
    assert bench.get(Taken(a, True)) == [Tell(a.inbox, Go("call", a.token))]
    assert bench.get(Taken(b, True)) == [stop(b)]
    assert bench.tick(now=SILENCE) == [stop(a), Send("call", 1)]
    assert bench.get(Taken(late, True)) == [stop(late)]
    again = attempt("again", number=1)
    assert bench.get(Taken(again, True)) == [Tell(again.inbox, Go("call", again.token))]
    bench.get(head(again, last=True))
    assert bench.get(Taken(b, True)) == [stop(b)]  # the call is over


def test_a_silent_node_without_an_answer_has_the_request_sent_again() -> None:
    bench, a = Bench(), attempt()
    bench.get(Taken(a), now=1.0)
    assert bench.tick(now=SILENCE) == []
    assert bench.tick(now=1.0 + SILENCE) == [stop(a), Send("call", 1)]
    assert bench.get(head(a)) == [stop(a)]
    b = attempt("b", number=1)
    assert bench.get(head(b)) == [Give(head(b))]


def test_a_request_that_nobody_begins_with_is_sent_again_after_growing_times_and_answered_once() -> None:
    bench, first, second = Bench(patient=True), attempt("a"), attempt("b")
    assert bench.tick(now=10) == bench.tick(now=10 + LOST_AFTER - 1) == []
    assert bench.tick(now=10 + LOST_AFTER) == [Send("call", 0)]
    assert bench.tick(now=10 + 3 * LOST_AFTER - 1) == []
    assert bench.tick(now=10 + 3 * LOST_AFTER) == [Send("call", 0)]
    # Both copies were only late: the one that is begun first is answered.
    now = 10 + 3 * LOST_AFTER
    assert bench.get(Taken(first), now) == []
    assert bench.get(Taken(second), now) == [stop(second)]
    assert bench.get(head(first, last=True), now) == [Give(head(first, last=True))]


def test_a_silent_node_with_an_answer_under_way_ends_the_call() -> None:
    bench, a = Bench(), attempt()
    bench.get(head(a))
    assert bench.tick(now=SILENCE) == [stop(a), Fail("call", "node inbox-a has fallen silent")]


def test_a_request_whose_nodes_die_is_not_tried_for_ever() -> None:
    bench = Bench()
    for number in range(3):
        now = 10.0 * number
        bench.get(Taken(attempt(str(number), number=number)), now=now)
        actions = bench.tick(now=now + SILENCE)
    assert isinstance(actions[-1], Fail)
    assert actions[-1].dead
    assert "3 nodes died" in actions[-1].why


def test_a_request_that_is_redelivered_too_often_is_not_tried_for_ever() -> None:
    bench = Bench()
    for number in range(4):
        actions = bench.get(Taken(attempt(str(number), delivery=number)))
    assert isinstance(actions[-1], Fail)
    assert actions[-1].dead


def test_the_deadline_ends_a_call_that_nobody_has_begun() -> None:
    bench = Bench(deadline=100.0)
    assert bench.tick(time=99.0) == []
    assert bench.tick(time=100.0) == [
        Tell("", Cancel("call", "")),
        Fail("call", "the answer was not begun at the request's deadline", unsent=True),
    ]


def test_the_deadline_does_not_bind_an_answer_under_way_nor_its_repetition() -> None:
    bench, a = Bench(deadline=100.0), attempt()
    bench.get(Taken(a))
    assert bench.tick(now=1.0, time=101.0) == []
    assert bench.tick(now=SILENCE, time=106.0) == [stop(a), Send("call", 1)]
    assert bench.tick(now=SILENCE, time=200.0) == []


def test_what_waited_while_the_broker_was_away_keeps_its_deadline() -> None:
    bench = Bench(deadline=100.0)
    assert list(bench.asking.restored()) == [Send("call", 1, 100.0)]


def test_without_the_broker_an_online_call_fails_at_once_and_one_of_a_batch_is_sent_again_afterwards() -> (
    None
):
    bench = Bench()
    assert list(bench.asking.lost("it is away")) == [Fail("call", "it is away")]
    bench = Bench(patient=True)
    bench.get(Taken(attempt()))
    assert list(bench.asking.lost("it is away")) == []
    assert list(bench.asking.restored()) == [Send("call", 1)]
    assert bench.get(head(attempt())) == [stop(attempt())]  # the copy that was in the queue before


def test_a_batch_of_whose_answer_something_was_given_fails_with_the_broker() -> None:
    bench = Bench(patient=True)
    bench.get(head(attempt()))
    assert list(bench.asking.lost("it is away")) == [Fail("call", "it is away")]


def test_who_is_busy_with_what_nobody_asked_is_told_to_stop() -> None:
    bench, a = Bench(), attempt()
    assert list(bench.asking.close("call")) == [Tell("", Cancel("call", ""))]
    assert bench.get(Taken(a)) == [stop(a)]
    assert bench.get(Alive((a,))) == [stop(a)]
    assert bench.get(head(a, last=True)) == []  # it has ended anyway
    assert bench.get(Broken(a, "why", False)) == []


def test_an_engine_that_has_not_begun_says_so() -> None:
    assert Bench().get(Broken(attempt(), "no room", True)) == [Fail("call", "no room", unsent=True)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4)), max_size=40))
def test_whatever_comes_an_answer_is_the_frames_of_one_attempt_in_order(
    events: list[tuple[str, int]],
) -> None:
    bench, given_frames = Bench(), list[Head | Piece]()
    for token, number in events:
        of = attempt(token, delivery="abcd".index(token) // 2)
        frame = head(of) if number == 0 else Piece(of, number, b"", number == 4)
        given_frames += [a.frame for a in bench.get(frame) if isinstance(a, Give)]
    assert len({f.attempt for f in given_frames}) <= 1
    numbers = [f.number if isinstance(f, Piece) else 0 for f in given_frames]
    assert numbers == list(range(len(numbers)))
