"""Processes of this run, however far they have strayed: found by a mark in their environment, ended, tidied up."""

from __future__ import annotations

import contextlib

import psutil

from shoal.engine import shm

MARK = "RUN_OF_CHAOS"  # not SHOAL_...: nodes keep such variables from their engines


def marked(value: str) -> list[psutil.Process]:
    """Return the living processes whose environment has the mark with this value."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(value: str) -> None:
    """Kill them all, and remove the shared memory they leave."""
    for _ in range(3):  # a process may start another one while we look
        processes = marked(value)
        if not processes:
            return
        segments = shm.used_by(process.pid for process in processes)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        shm.remove_unused(segments)
