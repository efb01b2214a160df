"""What strikes a group of plain vLLM: which processes get which signal. Pure data."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.chaos.plain_group import PlainGroup


@dataclass(frozen=True)
class PlainFault:
    """One fault of a group.

    Attributes:
        name: in the table.
        meaning: one sentence for the documentation.
        victims: returns the processes it strikes.
        number: the signal.
        patience: seconds to look at what follows.
        busy: requests run when it strikes; else one comes `IDLE` seconds later.
    """

    name: str
    meaning: str
    victims: Callable[[PlainGroup], list[int]]
    number: signal.Signals = signal.SIGKILL
    patience: float = 30.0
    busy: bool = True

    def strike(self, group: PlainGroup) -> None:
        """Let it happen, now."""
        for pid in self.victims(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.number)


IDLE = 10.0  # seconds
_TIMEOUT = 300.0  # VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS


def _followers(group: PlainGroup) -> list[int]:
    return [process.pid for process in group.follower.tree()]


FAULTS = (
    PlainFault(
        "follower's main process killed",
        "`kill -9` of the follower's main process alone",
        lambda group: [group.follower.process.pid],
    ),
    PlainFault("follower killed", "`kill -9` of all processes of the follower's node at once", _followers),
    PlainFault(
        "follower killed, idle",
        f"the same while no request runs; one is sent {IDLE:.0f} s later",
        _followers,
        busy=False,
    ),
    PlainFault(
        "follower's worker killed",
        "`kill -9` of the follower's worker process",
        lambda group: [group.follower.worker()],
    ),
    PlainFault(
        "leader killed",
        "`kill -9` of the leader's main process, the HTTP server",
        lambda group: [group.leader.process.pid],
    ),
    PlainFault(
        "leader's worker killed",
        "`kill -9` of the leader's worker process",
        lambda group: [group.leader.worker()],
    ),
    PlainFault(
        "follower stopped",
        "`SIGSTOP` of all processes of the follower's node: what a machine without power looks like to the others",
        _followers,
        signal.SIGSTOP,
        _TIMEOUT + 40.0,
    ),
)
