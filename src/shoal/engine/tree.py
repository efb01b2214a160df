"""Finding and ending all processes of an engine.

A killed vLLM leaves its children behind, with another parent and all their memory. Looking for children is therefore
not enough, and looking at environments is not either: vLLM's workers rename themselves (setproctitle), which
overwrites the memory the kernel shows as their environment (seen with 0.32: ``VLLM::EngineCore`` and ``VLLM::Worker``
have none). So a process belongs to an engine if

- it is the leader, or one that was seen in the engine's tree before, or carries the engine's marker;
- or it is in the leader's session (the kernel gives a number to no new process as long as a session of that number has
  a member, so it is enough that one member is known to be ours);
- or it descends from one of these.

The system is asked through /proc and not through psutil because one line of /proc/PID/stat holds all that is needed,
and because a process is known for certain by its start in clock ticks since the boot; psutil's wall-clock time moves
when the machine's clock is set.

Everything here may take milliseconds, and longer when a process holds its memory's lock: call it in a thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from shoal.engine.command import MARKER

PROC = Path("/proc")


class Ident(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A process, told apart from every other one since the boot.

    Attributes:
        pid: its number, which may belong to another process later.
        start: when it started, in clock ticks since the boot.
    """

    pid: int
    start: int


class Process(msgspec.Struct, frozen=True):
    """A line of the process table.

    Attributes:
        ident: which process.
        parent: pid of its parent.
        session: number of its session: the pid of the process that began it.
        state: letter as in proc(5); Z and X are dead.
        name: short name.
        cpu: processor time it has used, in clock ticks (``SC_CLK_TCK`` of them are a second).
    """

    ident: Ident
    parent: int
    session: int
    state: str
    name: str
    cpu: int = 0

    @property
    def pid(self) -> int:
        """Its number."""
        return self.ident.pid

    @property
    def alive(self) -> bool:
        """Whether it runs. A zombie does not, also where nobody collects them (a container's PID 1 may not)."""
        return self.state not in "ZXx"

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def boot_id() -> str:
    """Return what tells this boot of the machine from every other one."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def process(pid: int) -> Process | None:
    """Return the process of that number, None if there is none."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name stands in parentheses and may itself hold some, and blanks: proc(5), /proc/pid/stat.
    name = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode(errors="replace")
    fields = stat[stat.rindex(b")") + 2 :].split()
    cpu = int(fields[11]) + int(fields[12])
    return Process(Ident(pid, int(fields[19])), int(fields[1]), int(fields[3]), fields[0].decode(), name, cpu)


def processes() -> dict[int, Process]:
    """Return the table of all processes, by pid."""
    found = (process(int(entry)) for entry in os.listdir(PROC) if entry.isdecimal())  # noqa: PTH208 (faster)
    return {p.pid: p for p in found if p is not None}


def marker_of(pid: int) -> str | None:
    """Return the marker in the environment of a process; None if it has none or may not be looked at."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    for entry in environment.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name == MARKER.encode():
            return value.decode(errors="replace")
    return None


def members(
    leader: Ident | None,
    marker: str,
    known: Iterable[Ident] = (),
    table: Mapping[int, Process] | None = None,
    marked: Callable[[int], str | None] = marker_of,
) -> list[Process]:
    """Return the living processes of an engine.

    Never among them: process 1, this process and those it descends from.

    Args:
        leader: the engine's first process, dead or alive; None if it never became known.
        marker: the engine's marker.
        known: processes that were seen in the engine's tree before.
        table: the process table, by default that of this moment.
        marked: gives the marker of a process.
    """
    table = processes() if table is None else table
    ours = {ident for ident in (leader, *known) if ident is not None}
    tree = {p.pid for p in table.values() if p.ident in ours or marked(p.pid) == marker}
    if leader is not None and any(table[pid].session == leader.pid for pid in tree):
        tree |= {p.pid for p in table.values() if p.session == leader.pid}
    children: dict[int, list[int]] = {}
    for p in table.values():
        children.setdefault(p.parent, []).append(p.pid)
    unvisited = list(tree)
    while unvisited:
        new = [pid for pid in children.get(unvisited.pop(), ()) if pid not in tree]
        tree.update(new)
        unvisited += new
    tree -= _untouchable(table)
    return [table[pid] for pid in sorted(tree) if table[pid].alive]


def _untouchable(table: Mapping[int, Process]) -> set[int]:
    pids = {0, 1}
    pid = os.getpid()
    while pid not in pids:
        pids.add(pid)
        pid = table[pid].parent if pid in table else 0
    return pids


def open_process(ident: Ident) -> int | None:
    """Return a pidfd for exactly this process, None if it is gone. The caller closes it."""
    try:
        pidfd = os.pidfd_open(ident.pid)
    except OSError:
        return None
    # Looked at after opening: if the number is still that process's now, the descriptor is, too.
    found = process(ident.pid)
    if found is not None and found.ident == ident:
        return pidfd
    os.close(pidfd)
    return None


def end(
    find: Callable[[], list[Process]], settle: float = 0.0, timeout: float = 10.0
) -> tuple[list[str], list[str]]:
    """Kill what `find` finds, again and again until it finds nothing. Blocks.

    Each time all of them are stopped before the first is killed, until a look finds no new one: what is stopped starts
    no process that would be found no more once those it could be known by are gone.

    Args:
        find: returns the living processes of the tree.
        settle: seconds they have to go by themselves first.
        timeout: seconds after which to give up on processes the kernel does not let die.

    Returns:
        names of the processes that were killed, and of those that are left.
    """
    killed: list[str] = []
    patience = time.monotonic() + settle
    deadline = patience + timeout
    while found := find():
        now = time.monotonic()
        if now >= deadline:
            return killed, [str(p) for p in found]
        with contextlib.ExitStack() as stack:
            if now < patience:
                _wait(list(_opened(found, stack).values()), patience - now)
                continue
            pidfds: dict[Process, int] = {}
            while new := [p for p in found if p.ident not in {q.ident for q in pidfds}]:
                opened = _opened(new, stack)
                if not opened:
                    break
                for pidfd in opened.values():
                    _send(pidfd, signal.SIGSTOP)
                pidfds |= opened
                found = find()
            killed += [str(p) for p, pidfd in pidfds.items() if _send(pidfd, signal.SIGKILL)]
            _wait(list(pidfds.values()), 0.5)
    return list(dict.fromkeys(killed)), []


def _opened(found: Iterable[Process], stack: contextlib.ExitStack) -> dict[Process, int]:
    """Return pidfds of those that still are there, to be closed by `stack`."""
    pidfds = {p: pidfd for p in found if (pidfd := open_process(p.ident)) is not None}
    for pidfd in pidfds.values():
        stack.callback(os.close, pidfd)
    return pidfds


def _send(pidfd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _wait(pidfds: list[int], timeout: float) -> None:
    """Wait until all processes are dead, zombies or gone, for `timeout` seconds at most."""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = len(pidfds)
    while left and (rest := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(rest * 1000):
            poll.unregister(pidfd)
            left -= 1
