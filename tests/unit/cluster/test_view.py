from __future__ import annotations

from shoal.cluster.view import (
    EngineReport,
    EngineState,
    Member,
    MemberState,
    NodeReport,
    View,
    full_id,
)


def member(name: str, state: MemberState, in_flight: dict[str, int], is_self: bool = False) -> Member:
    engine = EngineReport(id="m-0", model="m", kind="sim", state=EngineState.READY, host="h")
    report = NodeReport(name=name, version="1", in_flight=in_flight, engines=(engine,))
    return Member(name=name, state=state, report=report, is_self=is_self)


VIEW = View(
    me="a:1",
    members=(
        member("a:1", MemberState.ALIVE, {"x": 1}, is_self=True),
        member("b:1", MemberState.ALIVE, {"x": 2, "y": 3}),
        member("c:1", MemberState.SUSPECT, {"x": 4}),
        member("d:1", MemberState.DEAD, {"x": 8}),
        member("e:1", MemberState.LEFT, {"x": 16}),
        Member(name="f:1", state=MemberState.UNKNOWN),
    ),
)


def test_members_and_engines_are_found_by_name() -> None:
    assert VIEW.member("c:1") is VIEW.members[2]
    assert VIEW.member("z:1") is None
    assert [full_id(m.name, e.id) for m, e in VIEW.engines()] == [f"{n}:1/m-0" for n in "abcde"]
