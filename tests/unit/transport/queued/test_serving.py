"""Which deliveries begin, wait, or are turned down."""

from shoal.transport.queued.frames import Request
from shoal.transport.queued.serving import Delivery, Refusal, Serving


def delivery(
    name: str, priority: int = 1, *, deadline: float | None = None, before: int = 0, model: str = "m"
) -> Delivery:
    request = Request(name, 0, "inbox", "n/e", model, b"POST", b"/", (), b"", deadline, priority)
    return Delivery(request, name, before)


def serving(slots: int) -> Serving:
    made = Serving(redeliveries=2)
    made.offer({"m": slots})
    return made


def begun(desk: Serving, time: float = 0.0) -> list[str]:
    return [d.request.id for d in desk.next(time) if isinstance(d, Delivery)]


def test_as_many_begin_as_there_are_slots_and_the_next_when_one_is_done() -> None:
    desk, all_of_them = serving(2), [delivery(str(n)) for n in range(3)]
    for each in all_of_them:
        assert desk.arrive(each, 0.0) is None
    assert begun(desk) == ["0", "1"]
    desk.done(all_of_them[0])
    assert begun(desk) == ["2"]


def test_higher_classes_go_first_and_do_not_see_the_work_of_lower_ones() -> None:
    desk = serving(1)
    for name, priority in (("batch", 0), ("ordinary", 1), ("urgent", 7), ("second batch", 0)):
        desk.arrive(delivery(name, priority), 0.0)
    assert begun(desk) == ["urgent"]  # its slot is not free for the classes below
    desk.done(delivery("urgent", 7))
    assert begun(desk) == ["ordinary"]
    desk.done(delivery("ordinary"))
    assert begun(desk) == ["batch"]
    desk.arrive(delivery("another", 1), 0.0)
    assert begun(desk) == ["another"]


def test_no_more_is_pulled_while_something_waits_without_a_slot() -> None:
    desk = serving(1)
    assert desk.wants("m", 0)
    desk.arrive(delivery("ordinary"), 0.0)
    begun(desk)
    desk.arrive(delivery("batch", 0), 0.0)
    begun(desk)
    assert not desk.wants("m", 0)
    assert desk.wants("m", 2)
    desk.done(delivery("ordinary"))
    assert begun(desk) == ["batch"]
    assert not desk.wants("m", 0)  # not before there is a slot again
    desk.done(delivery("batch", 0))
    assert desk.wants("m", 0)


def test_a_model_without_slots_is_not_pulled() -> None:
    desk = serving(1)
    desk.offer({})
    assert not desk.wants("m", 1)
    assert not desk.wants("other", 1)
    assert desk.room("m", 1) == 0


def test_what_nobody_waits_for_is_refused_silently() -> None:
    desk = serving(1)
    desk.cancel("a")
    assert desk.arrive(delivery("a"), 0.0) == Refusal(delivery("a"), "")


def test_a_request_past_its_deadline_is_refused_with_the_reason_when_it_comes_and_when_it_would_begin() -> (
    None
):
    desk = serving(1)
    late = desk.arrive(delivery("a", deadline=10.0), 10.0)
    assert late is not None
    assert "deadline" in late.why
    desk.arrive(delivery("b"), 0.0)
    begun(desk)
    assert desk.arrive(delivery("c", deadline=10.0), 9.0) is None
    desk.done(delivery("b"))
    (refused,) = desk.next(11.0)
    assert isinstance(refused, Refusal)
    assert "deadline" in refused.why
    assert (
        desk.arrive(delivery("d", deadline=10.0, before=1), 11.0) is None
    )  # begun in time, but its node died


def test_a_request_that_was_delivered_too_often_is_refused_with_the_reason() -> None:
    desk = serving(1)
    assert desk.arrive(delivery("a", before=2), 0.0) is None
    refused = desk.arrive(delivery("b", before=3), 0.0)
    assert refused is not None
    assert "3 times" in refused.why


def test_what_waits_is_forgotten_when_the_broker_goes() -> None:
    desk = serving(1)
    desk.arrive(delivery("a"), 0.0)
    assert [d.request.id for d in desk.drop_waiting()] == ["a"]
    assert begun(desk) == []
