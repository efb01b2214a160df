"""Notices that a process of a part of an engine is stopped (SIGSTOP, a frozen cgroup): the whole engine waits for it.

On one node that shows by the engine's progress. Of an engine across nodes the other nodes' parts would wait, too, and
for as long as vLLM's own limit: minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.engine import tree
from shoal.engine.process import EngineProcess
from shoal.engine.record import Record
from shoal.node.managed import ManagedEngine

_INTERVAL = 0.5
_PATIENCE = 3
"""Looks in a row at which it must be stopped: a debugger or a snapshot stops a process for a moment. 1.5 s at most."""


async def watch_stopped(e: ManagedEngine, process: EngineProcess, on_change: Callable[[], None]) -> None:
    """Look at the processes of a part for as long as it runs; note in `e.stopped` that one is stopped."""
    seen = 0
    while not process.exited.done() and not e.ending:
        name = await asyncio.to_thread(_stopped, process.record)
        seen = seen + 1 if name else 0
        if seen >= _PATIENCE:
            e.stopped = f"hangs: its process {name} is stopped"
            on_change()
            return
        await asyncio.wait({process.exited}, timeout=_INTERVAL)


def _stopped(rec: Record) -> str | None:
    found = (tree.process(i.pid) for i in rec.members)
    return next((str(p) for p in found if p is not None and p.ident in rec.members and p.state == "T"), None)
