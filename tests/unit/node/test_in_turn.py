from shoal.cluster.view import Member, MemberState, NodeReport, View
from shoal.node.in_turn import InTurn


def member(name: str, *, state: MemberState = MemberState.ALIVE, **more: object) -> Member:
    report = NodeReport(name=name, version="1", **more)  # type: ignore[arg-type]
    return Member(name=name, state=state, report=report)


def waits(*members: Member, replacing: str = "waits") -> bool:
    view = View(me="b:1", members=(*members, member("b:1", generation=2)))
    return InTurn(60).waits(view, 2, replacing, 0.0)


def test_a_node_waits_for_those_before_it_that_are_at_it_or_have_yet_to_begin():
    assert waits(member("a:1", generation=2, replacing="waits"))
    assert waits(member("a:1", generation=1))
    assert waits(member("c:1", generation=2, replacing="acts"))
    assert not waits(member("a:1", generation=2))
    assert not waits(member("a:1", generation=1), replacing="")


def test_nobody_waits_for_who_comes_later_is_gone_or_runs_no_engines():
    assert not waits(member("c:1", generation=2, replacing="waits"))
    assert not waits(member("a:1", generation=1, state=MemberState.DEAD))
    assert not waits(member("a:1", generation=1, role="gateway"))


def test_nobody_waits_for_ever():
    turn = InTurn(60)
    view = View(me="b:1", members=(member("a:1", generation=2, replacing="waits"), member("b:1")))
    assert turn.waits(view, 2, "waits", 0.0)
    assert turn.waits(view, 2, "waits", 59.0)
    assert not turn.waits(view, 2, "waits", 61.0)
    assert not turn.waits(view, 2, "", 62.0)
    assert turn.waits(view, 2, "waits", 63.0)  # another change, another time
