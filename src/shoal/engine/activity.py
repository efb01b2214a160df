"""Whether an engine computes, told from outside: by the time its processes and its GPUs have worked.

vLLM's counters stand still until a step is over, so that by them one long step (a huge prompt, prefilled at once)
looks like a hung core. But a step keeps something busy: on CPUs the threads of EngineCore and Worker processes, on
GPUs the GPU. The processor alone does not tell there: CUDA waits for a GPU at full speed by default, vLLM does not
(0.32 makes its events with ``blocking=True``; on an H100 that took 0.00 s of processor time for 3 s of GPU work, and
3.00 s without). What is stopped (SIGSTOP) or waits for a lock keeps nothing busy.

The reverse does not hold: whoever waits at full speed for another one that never comes looks busy for ever (a
collective operation whose partner is gone, a busy loop). So this is evidence for a limited time only, see the rules.
"""

from __future__ import annotations

import os
import time

from shoal.engine import gpu, tree
from shoal.engine.record import Record
from shoal.engine.tree import Ident

BUSY = 0.1
"""Share of the time that a process or a GPU of an engine that computes works at least."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Activity:
    """Compares one look at an engine's processes with the one before."""

    def __init__(self) -> None:
        self._at = 0.0
        self._cpu: dict[Ident, int] = {}

    def computes(self, rec: Record, *, silent: bool) -> bool:
        """Return whether the engine has computed since the last look; False at the first. Blocks for milliseconds.

        Args:
            rec: the engine.
            silent: its API does not answer, so that what its first process, the API server, does counts as well. If
                it does answer, it is busy with that, and with the text of requests that nobody will compute.
        """
        now = time.monotonic()
        found = [
            p for i in rec.members if (p := tree.process(i.pid)) is not None and p.ident == i and p.alive
        ]
        before, elapsed = self._cpu, now - self._at
        self._cpu, self._at = {p.ident: p.cpu for p in found}, now
        if any(p.state == "T" for p in found):
            return False
        judged = found if silent else [p for p in found if p.ident != rec.leader]
        used = max((p.cpu - before.get(p.ident, p.cpu) for p in judged), default=0) / _TICKS
        return used >= BUSY * elapsed or gpu.utilization(rec.gpus or ()) >= BUSY
