"""Notices that a part of an engine cannot go on though its first process runs: another one of it is stopped or dead.

Stopped (SIGSTOP, a frozen cgroup), the whole engine waits for it. On one node that shows by the engine's progress; of
an engine across nodes the other nodes' parts would wait, too, and for as long as vLLM's own limit: minutes. Dead,
vLLM's first process notices by itself, but takes seconds to end (3.9 s with 0.32, a follower's worker, measured).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from shoal.cluster.view import EngineState
from shoal.engine import tree
from shoal.engine.process import EngineProcess
from shoal.node.managed import ManagedEngine

_INTERVAL = 0.5
_STOPPED = 3
"""Looks in a row at which it must be stopped: a debugger or a snapshot stops a process for a moment. 1.5 s at most."""
_DEAD = 2
"""Looks in a row at which it must be dead while the first process runs: one that ends in good order ends at once."""
_SURVEY = 4
"""Looks after which the tree is searched anew while none of the processes it needs has been found."""
_CORE, _WORKER = ("VLLM::EngineCor", "SIM::EngineCore"), ("VLLM::Worker", "SIM::Worker")
"""How the names of processes begin that an engine cannot do without; the kernel keeps 15 characters of a name."""


async def watch_broken(e: ManagedEngine, process: EngineProcess, on_change: Callable[[], None]) -> None:
    """Look at the processes of a part until it is told to end; note in `e.broken` why it cannot go on."""
    names: dict[tree.Ident, str] = {}
    stopped = dead = looks = 0
    while not process.exited.done() and not e.ending and e.state is not EngineState.STOPPING:
        looks += 1
        if not names and looks % _SURVEY == 0:
            await process.survey()
        now = await asyncio.to_thread(_living, process)
        halted = next((str(p) for p in now.values() if p.state == "T"), None)
        gone = next((i for i in names if i not in now), None)
        names |= {p.ident: p.name for p in needed(process.pid, now.values())}
        stopped = stopped + 1 if halted else 0
        dead = dead + 1 if gone else 0
        if stopped >= _STOPPED:
            e.broken = f"hangs: its process {halted} is stopped"
        elif gone and dead >= _DEAD:
            e.broken = f"cannot go on: its process {names[gone]} (pid {gone.pid}) is dead"
        if e.broken is not None:
            on_change()
            return
        await asyncio.wait({process.exited}, timeout=_INTERVAL)


def _living(process: EngineProcess) -> Mapping[tree.Ident, tree.Process]:
    found = (tree.process(i.pid) for i in process.record.members)
    known = set(process.record.members)
    return {p.ident: p for p in found if p is not None and p.ident in known and p.alive}


def needed(leader: int, found: Collection[tree.Process]) -> list[tree.Process]:
    """Return the processes of an engine without which it cannot go on: its cores and workers, by their names.

    What one of them forks bears its name for a moment, and is none: it has another parent.

    Args:
        leader: pid of the engine's first process.
        found: living processes of its tree.
    """
    cores = [p for p in found if p.name.startswith(_CORE) and p.parent == leader]
    parents = {leader, *(p.pid for p in cores)}
    return cores + [p for p in found if p.name.startswith(_WORKER) and p.parent in parents]
