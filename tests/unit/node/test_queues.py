"""What waits, between workers and nodes."""

import os
from collections.abc import Iterator

import pytest

from shoal.cluster.view import Member, MemberState, NodeReport, View, Waiting, gateways_waiting
from shoal.gateway import counters
from shoal.gateway.counters import SharedMetrics
from shoal.node import queues
from shoal.node.slots import Slots


@pytest.fixture
def metrics() -> Iterator[SharedMetrics]:
    fd = counters.create(3)
    yield SharedMetrics(fd, 3)
    os.close(fd)


def test_a_report_says_what_waits_and_in_how_many_workers(metrics: SharedMetrics):
    slots = Slots(8)
    chat, _ = slots("chat"), slots("embed")
    assert queues.waiting(metrics, slots) == {}
    metrics.waiting(0)[chat] = 5
    metrics.waiting(2)[chat] = 1
    assert queues.waiting(metrics, slots) == {"chat": Waiting(requests=6, gateways=2)}
    metrics.reset_gauges(0)
    assert queues.waiting(metrics, slots) == {"chat": Waiting(requests=1, gateways=1)}


def test_what_other_nodes_report_is_told_to_the_workers(metrics: SharedMetrics):
    def member(name: str, state: MemberState, **waiting: Waiting) -> Member:
        report = NodeReport(name=name, version="1", waiting=waiting)
        return Member(name=name, state=state, report=report, is_self=name == "me:1")

    view = View(
        me="me:1",
        members=(
            member("a:1", MemberState.ALIVE, chat=Waiting(9, 2), unknown=Waiting(1, 1)),
            member("b:1", MemberState.SUSPECT, chat=Waiting(1, 1)),
            member("c:1", MemberState.DEAD, chat=Waiting(1, 1)),
            member("me:1", MemberState.ALIVE, chat=Waiting(1, 1)),
        ),
    )
    slots = Slots(8)
    chat = slots("chat")
    found = queues.by_slot(gateways_waiting(view), slots)
    assert found == {chat: 3}
    metrics.set_elsewhere(found)
    assert metrics.elsewhere[chat] == 3
    metrics.set_elsewhere({})
    assert metrics.elsewhere[chat] == 0
