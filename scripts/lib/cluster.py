"""Runs `shoal serve --local` and leaves nothing behind. Needs psutil."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

_MARK = "RUN_OF_DEMO"  # not SHOAL_...: nodes keep such variables from their engines
_PR_SET_PDEATHSIG = 1  # prctl(2)


def _stop_with_parent() -> None:
    """Have the kernel send SIGTERM when the demo itself is killed (runs in the child, before exec)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Cluster:
    """All nodes of a configuration, as processes of this machine.

    Args:
        config: the YAML file.
        directory: for the log and the nodes' state.
        environment: variables beside the present ones.
    """

    def __init__(self, config: Path, directory: Path, environment: Mapping[str, str]) -> None:
        self.log = directory / "serve.log"
        self._mark = uuid.uuid4().hex
        self._read = 0
        self._sessions: set[int] = set()
        command = [sys.executable, "-m", "shoal.serve", "--local", "--config", str(config)]
        mine = {_MARK: self._mark, "XDG_STATE_HOME": str(directory), "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C comes to the demo alone, which stops the nodes in order.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment | mine,
                start_new_session=True,
                preexec_fn=_stop_with_parent,  # noqa: PLW1509 (no threads run yet)
            )

    def ended(self) -> bool:
        """Return whether the nodes are gone."""
        return self.process.poll() is not None

    def new_output(self) -> str:
        """Return what the nodes have written since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._read += len(complete)
        return complete.decode(errors="replace")

    def last_lines(self, count: int = 12) -> str:
        """Return the last lines the nodes have written."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def engine_process(self) -> int | None:
        """Return the id of a process that computes for one of the engines, None without any."""
        for process in self._family():
            try:
                if "EngineCore" in " ".join(process.cmdline()):
                    return process.pid
            except psutil.Error:
                continue
        return None

    def stop(self, patience: float = 60.0) -> None:
        """Stop the nodes gracefully, at once when interrupted meanwhile; then end whatever is left."""
        self._family()  # remembers the sessions while the processes that show the mark are alive
        try:
            if not self.ended():
                self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=patience)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=10)
            except (KeyboardInterrupt, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        left = self._family()
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue

    def _family(self) -> list[psutil.Process]:
        """Return every living process that descends from this run.

        The environment tells most; vLLM's workers overwrite theirs when they rename themselves, so processes in
        a session that was seen to be ours count too.
        """
        found = []
        everyone = list(psutil.process_iter())
        for process in everyone:
            try:
                if process.environ().get(_MARK) == self._mark:
                    self._sessions.add(os.getsid(process.pid))
            except (psutil.Error, OSError):
                continue
        for process in everyone:
            try:
                ours = os.getsid(process.pid) in self._sessions
            except OSError:
                continue
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found
