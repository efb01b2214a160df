"""What systemd is told, seen from the other end of its socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.notify import Notify, summary


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.setblocking(False)
        yield ours


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def view(*states: EngineState) -> View:
    engines = tuple(
        EngineReport(id=f"m-{i}", model="m", kind="sim", state=s, host="a") for i, s in enumerate(states)
    )
    report = NodeReport(name="a:1", version="1", role="serve", engines=engines)
    return View(me="a:1", members=(Member(name="a:1", state=MemberState.ALIVE, is_self=True, report=report),))


def test_it_tells_when_the_node_is_ready_what_it_sees_and_when_it_stops(manager: socket.socket):
    notify = Notify({"NOTIFY_SOCKET": str(manager.getsockname())})
    notify.ready()
    notify.alive(view(EngineState.STARTING))
    notify.alive(view(EngineState.STARTING))  # nothing new, nothing said
    notify.alive(view(EngineState.READY))
    notify.stopping("draining")
    assert heard(manager) == [
        "READY=1",
        "STATUS=1 of 1 nodes alive, 0 of 1 engines ready",
        "STATUS=1 of 1 nodes alive, 1 of 1 engines ready",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_the_watchdog_is_fed_at_half_its_time_and_only_while_the_rules_are_gone_through(
    manager: socket.socket,
):
    now = [100.0]
    env = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    notify = Notify(env, clock=lambda: now[0], pid=7)
    for now[0] in (101.0, 114.0, 115.0, 116.0, 130.5):
        notify.alive(view())
    assert heard(manager).count("WATCHDOG=1") == 2
    assert env == {}, "engines must not inherit them"


def test_a_watchdog_of_another_process_is_not_fed(manager: socket.socket):
    now = [0.0]
    env = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}
    notify = Notify(env, clock=lambda: now[0], pid=7)
    now[0] = 10.0
    notify.alive(view())
    assert "WATCHDOG=1" not in heard(manager)


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(tmp_path: Path):
    for env in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}, {"NOTIFY_SOCKET": "@shoal-test-nobody"}):
        notify = Notify(env)
        notify.ready()
        notify.alive(view())


def test_a_node_that_is_cut_off_says_so():
    assert summary(View(me="a:1", isolated=True)).endswith("probably cut off from the others")
