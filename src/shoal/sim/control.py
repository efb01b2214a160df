"""Carries out faults: the only place that kills, hangs and closes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Protocol

from shoal.sim.engine import Engine
from shoal.sim.family import Family
from shoal.sim.faults import CORE_EXITS_AFTER, Fault, FaultBoard

# Measured on vLLM 0.32 with its EngineCore killed: the port closes 0.1 s later; in the end the exit status is 0.
_CORE_CLOSES_AFTER = 0.1
# A process that is to die first gets time to send what it has produced, so that tests can count on it.
_FLUSH = 0.02
_PER_REQUEST = ("cut", "status")


class Refusable(Protocol):
    """What listens for connections."""

    def refuse(self, how: str) -> None:
        """Take no more connections: ``close`` the port or ``reset`` what comes in."""
        ...

    async def accept(self) -> None:
        """Take connections again."""
        ...


class Control:
    """Starts faults when they are due and ends them.

    Args:
        engine: what they strike.
        board: where those in force are noted.
        listener: what ``refuse`` acts on.
        family: helper processes, if there are any.
    """

    def __init__(
        self, engine: Engine, board: FaultBoard, listener: Refusable, family: Family | None = None
    ) -> None:
        self._engine = engine
        self._board = board
        self._listener = listener
        self._family = family
        self._timers: list[asyncio.TimerHandle] = []
        self._calm = asyncio.Event()
        self._calm.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def order(self, fault: Fault) -> None:
        """Let a fault strike as it says; ``clear`` ends all."""
        if fault.kind == "clear":
            await self.clear()
        elif fault.kind in _PER_REQUEST:
            self._board.add(fault)
        elif fault.after_tokens:
            self._engine.call_after_tokens(fault.after_tokens, lambda: self._strike(fault))
        elif fault.after_seconds:
            self._later(fault.after_seconds, lambda: self._strike(fault))
        else:
            self._strike(fault)

    async def clear(self) -> None:
        """End all faults, those that were still to come included."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._engine.cancel_alarm()
        for fault in self._board.clear():
            await self._undo(fault)

    async def calm(self) -> None:
        """Wait until no hang keeps the whole process from answering."""
        await self._calm.wait()

    def core_died(self, exit_after: float = CORE_EXITS_AFTER) -> None:
        """Do what vLLM does when its engine core is gone: fail what is open, close the port, exit with status 0."""
        self._engine.die()
        self._later(_CORE_CLOSES_AFTER, lambda: self._listener.refuse("close"))
        self._later(exit_after, lambda: os._exit(0))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled()]
        self._timers.append(asyncio.get_running_loop().call_later(seconds, action))

    def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                self._engine.pause()
                self._later(_FLUSH, lambda: os.kill(os.getpid(), signal.SIGKILL))
            case "exit":
                self._engine.pause()
                self._later(_FLUSH, lambda: os._exit(fault.code))
            case "core":
                if self._family is not None:
                    self._family.kill_core()
                self.core_died(fault.exit_after)
            case "hang":
                self._engine.pause()
                if not fault.health:
                    self._calm.clear()
            case "slow":
                self._engine.slow = fault.factor
            case "refuse":
                self._listener.refuse(fault.how)
        self._board.add(fault)
        if fault.seconds is not None:
            self._later(fault.seconds, lambda: self._expire(fault))

    def _expire(self, fault: Fault) -> None:
        if self._board.remove(fault):
            task = asyncio.get_running_loop().create_task(self._undo(fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _undo(self, fault: Fault) -> None:
        match fault.kind:
            case "hang":
                self._calm.set()
                self._engine.resume()
            case "slow":
                self._engine.slow = 1.0
            case "refuse":
                await self._listener.accept()
