from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engine import tree
from shoal.engine.tree import Ident, Process
from support.wait import wait_until
from unit.engine.fakes import alive

LEADER = Ident(100, 1)


def proc(pid: int, parent: int = 1, session: int = 7, start: int = 1, state: str = "S") -> Process:
    return Process(Ident(pid, start), parent, session, state, f"p{pid}")


def found(
    *table: Process,
    known: tuple[Ident, ...] = (),
    marked: tuple[int, ...] = (),
    leader: Ident | None = LEADER,
) -> list[int]:
    processes = {p.pid: p for p in table}
    members = tree.members(leader, "m", known, processes, lambda pid: "m" if pid in marked else None)
    return [p.pid for p in members]


def test_a_tree_is_the_leader_its_descendants_and_its_session() -> None:
    table = [
        proc(100, session=100),
        proc(101, 100, 100),
        proc(102, 101, 102),  # in a session of its own
        proc(103, 102, 102),
        proc(104, 1, 100),  # orphan in the leader's session
        proc(200),
        proc(201, 200),
    ]
    assert found(*table) == [100, 101, 102, 103, 104]


def test_an_orphan_in_another_session_is_known_by_its_marker() -> None:
    assert found(proc(100, session=100), proc(150, 1, 150), proc(151, 150, 150), marked=(150,)) == [
        100,
        150,
        151,
    ]


def test_an_orphan_without_a_marker_is_known_when_it_was_seen_before() -> None:
    assert found(proc(150, 1, 150, start=9), known=(Ident(150, 9),)) == [150]
    assert found(proc(150, 1, 150, start=8), known=(Ident(150, 9),)) == []


def test_the_session_of_a_dead_leader_is_ours_as_long_as_one_known_member_is_in_it() -> None:
    orphans = [proc(101, 1, 100, start=5), proc(102, 1, 100, start=6)]
    assert found(*orphans, known=(Ident(101, 5),)) == [101, 102]
    assert found(*orphans, marked=(102,)) == [101, 102]
    assert found(*orphans) == []  # may be anybody's: the number may have been given again


def test_a_process_that_has_the_leaders_pid_now_is_left_alone_with_its_session() -> None:
    reused = [proc(100, session=100, start=77), proc(101, 100, 100)]
    assert found(*reused) == []
    assert found(*reused, proc(150, 1, 150), known=(Ident(150, 1),)) == [150]


def test_a_zombie_vouches_for_its_session_but_is_not_there_to_be_ended() -> None:
    assert found(proc(100, session=100, state="Z"), proc(101, 1, 100)) == [101]


def test_without_a_leader_only_the_marker_counts() -> None:
    assert found(proc(100, session=100), proc(150, 1, 150), marked=(150,), leader=None) == [150]


def test_neither_we_nor_our_ancestors_are_ever_members() -> None:
    me, parent = os.getpid(), 40
    table = [proc(1, 0, 1), proc(parent, 1, 100), proc(me, parent, 100), proc(100, 1, 100)]
    assert found(*table, marked=(1, parent, me)) == [100]


PROCESSES = st.lists(
    st.builds(
        proc,
        pid=st.integers(2, 30),
        parent=st.integers(0, 30),
        session=st.integers(1, 30),
        start=st.integers(1, 3),
        state=st.sampled_from("SRZ"),
    ),
    max_size=25,
)


@given(PROCESSES, st.integers(2, 30), st.integers(1, 3))
def test_nobody_is_a_member_without_a_tie(table: list[Process], pid: int, start: int) -> None:
    processes = {p.pid: p for p in table}
    leader = Ident(pid, start)
    members = {p.pid for p in tree.members(leader, "m", (), processes, lambda _: None)}
    if pid not in processes or processes[pid].ident != leader:
        assert not members
        return

    def tied(who: int, seen: frozenset[int] = frozenset()) -> bool:
        if who not in processes or who in seen:
            return False
        p = processes[who]
        in_session = p.session == pid and processes[pid].session == pid
        return p.ident == leader or in_session or tied(p.parent, seen | {who})

    alive_and_tied = {p.pid for p in processes.values() if p.alive and tied(p.pid)}
    assert members == alive_and_tied


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], env={"SHOAL_ENGINE": uuid.uuid4().hex}) as process:
        yield process
        process.kill()


def test_a_real_process_is_read_as_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: (p := tree.process(sleeper.pid)) is not None and p.name == "sleep")
    process = tree.process(sleeper.pid)
    assert process is not None
    assert (process.parent, process.session, process.alive) == (os.getpid(), os.getsid(sleeper.pid), True)
    assert str(process) == f"sleep (pid {sleeper.pid})"
    assert tree.processes()[sleeper.pid].ident == process.ident
    sleeper.kill()
    wait_until(lambda: not alive(sleeper.pid))
    zombie = tree.process(sleeper.pid)
    assert zombie is not None
    assert zombie.ident == process.ident
    sleeper.wait()
    assert tree.process(sleeper.pid) is None


def test_a_name_with_parentheses_and_blanks_is_read_right(tmp_path: object) -> None:
    code = "import time; open('/proc/self/comm', 'w').write('a) S (b'); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        process = tree.process(odd.pid)
        odd.kill()
    assert process is not None
    assert (process.name, process.parent) == ("a) S (b", os.getpid())


def test_a_marker_is_read_from_the_environment(sleeper: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: tree.marker_of(sleeper.pid) is not None)
    assert len(tree.marker_of(sleeper.pid) or "") == 32
    assert tree.marker_of(os.getpid()) is None
    assert tree.marker_of(2**22 + 1) is None


def test_a_process_is_opened_only_under_its_own_start(sleeper: subprocess.Popen[bytes]) -> None:
    process = tree.process(sleeper.pid)
    assert process is not None
    pidfd = tree.open_process(process.ident)
    assert pidfd is not None
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 5)[0]
    os.close(pidfd)
    assert tree.open_process(Ident(sleeper.pid, process.ident.start + 1)) is None
    assert tree.open_process(Ident(2**22 + 1, 1)) is None


def test_ending_goes_on_until_nothing_is_found() -> None:
    marker = uuid.uuid4().hex
    # Each one keeps starting others for as long as it lives.
    breeder = "import subprocess, time\nwhile 1: subprocess.Popen(['sleep', '600']); time.sleep(0.002)"
    with subprocess.Popen([sys.executable, "-S", "-c", breeder], env={"SHOAL_ENGINE": marker}) as parent:
        wait_until(lambda: len(tree.members(None, marker)) > 5)
        killed, left = tree.end(lambda: tree.members(None, marker))
    assert left == []
    assert f"pid {parent.pid}" in " ".join(killed)
    assert len(killed) > 5
    assert tree.members(None, marker) == []


def test_those_that_go_by_themselves_in_time_are_not_killed() -> None:
    marker = uuid.uuid4().hex
    with subprocess.Popen(["sleep", "0.2"], env={"SHOAL_ENGINE": marker}):
        assert tree.end(lambda: tree.members(None, marker), settle=10) == ([], [])


def test_what_cannot_be_ended_is_told(sleeper: subprocess.Popen[bytes]) -> None:
    immortal = Process(Ident(2**22 + 1, 1), 1, 1, "D", "stuck")
    assert tree.end(lambda: [immortal], timeout=0.1) == ([], [f"stuck (pid {2**22 + 1})"])
