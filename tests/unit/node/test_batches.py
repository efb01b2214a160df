"""What batches see of a node: the other nodes, and how many requests keep the engines busy."""

import pytest

from shoal.cluster.view import EngineReport, EngineState, Interface, Member, MemberState, NodeReport, View
from shoal.node.batches import cluster_of, room


def engine(capacity: int, **more: object) -> EngineReport:
    fields = {"id": "m-0", "model": "m", "kind": "vllm", "state": EngineState.READY, "host": "h"} | more
    return EngineReport(capacity=capacity, **fields)


def member(
    name: str, *engines: EngineReport, state: MemberState = MemberState.ALIVE, **more: object
) -> Member:
    report = NodeReport(name=name, version="1", engines=engines, incarnation=7, **more)
    return Member(name=name, state=state, report=report, is_self=name == "a:1")


@pytest.mark.parametrize(
    ("engines", "wanted"),
    [
        ((), 8),
        ((engine(100),), 90),
        ((engine(100), engine(0)), 80 + 25 + 13),
        ((engine(100, state=EngineState.STARTING), engine(100, standby=True)), 8),
        ((engine(5000),), 1024),
    ],
)
def test_there_is_always_a_request_that_waits_for_a_free_place(
    engines: tuple[EngineReport, ...], wanted: int
):
    assert room(View(me="a:1", members=(member("a:1", *engines),)), 0.8) == wanted


def test_dead_nodes_engines_want_nothing():
    view = View(me="a:1", members=(member("a:1"), member("b:1", engine(99), state=MemberState.DEAD)))
    assert room(view, 0.8) == 8


def test_other_nodes_are_those_that_can_be_asked():
    view = View(
        me="a:1",
        isolated=True,
        members=(
            member("a:1"),
            member("b:1", interface=Interface("10.0.0.2", 20001, "abc")),
            member("c:1", state=MemberState.SUSPECT, interface=Interface("::1", 20002)),
            member("d:1"),
            member("e:1", state=MemberState.LEFT, interface=Interface("10.0.0.5", 20003)),
            Member(name="f:1", state=MemberState.UNKNOWN),
        ),
    )
    cluster = cluster_of(view)
    assert (cluster.me, cluster.isolated) == ("a:1", True)
    assert [(p.name, p.url, p.authority) for p in cluster.alive()] == [
        ("b:1", "https://10.0.0.2:20001", "abc"),
        ("c:1", "http://[::1]:20002", ""),
    ]
    assert [cluster.is_alive(n) for n in ("a:1", "b:1", "d:1", "e:1", "f:1", "x")] == [True, True] + 4 * [
        False
    ]
    assert cluster.peer("b:1").incarnation == 7
    assert cluster.peer("f:1").incarnation == 0
