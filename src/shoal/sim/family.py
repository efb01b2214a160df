"""The helper processes of a simulated engine: started, watched and ended together with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_GRACE = 2.0


class Family:
    """A tree of helper processes like vLLM's: one core, its workers, shared memory.

    Attributes:
        pids: all helpers, the core first.
        segment: path of the shared memory they map.
    """

    def __init__(self, core: subprocess.Popen[str]) -> None:
        assert core.stdout is not None
        words = core.stdout.readline().split()
        self._core = core
        self._ending = False
        self.segment = words[0] if words else ""
        self.pids = [core.pid, *map(int, words[1:])]

    @classmethod
    def start(cls, processes: int, first: str = "EngineCore") -> Family:
        """Start `processes` helpers, at least 1, and wait until all of them exist; `first` names the first."""
        script = str(Path(__file__).with_name("helper.py"))
        return cls(
            subprocess.Popen(
                [sys.executable, "-S", script, first, str(processes - 1)], stdout=subprocess.PIPE, text=True
            )
        )

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` from the running loop when the core dies by itself."""
        loop = asyncio.get_running_loop()
        fd = os.pidfd_open(self._core.pid)

        def died() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            if not self._ending:
                on_exit()

        loop.add_reader(fd, died)

    def kill_core(self) -> None:
        """Let the core die a sudden death; its workers stay behind."""
        self._ending = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._core.pid, signal.SIGKILL)

    def end(self) -> None:
        """End all helpers in good order."""
        self._ending = True
        self._core.terminate()
        try:
            self._core.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._core.kill()
