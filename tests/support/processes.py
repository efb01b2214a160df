"""Looking at processes from outside."""

import contextlib

import psutil


def runs(process: psutil.Process) -> bool:
    """Return whether the process runs. A zombie does not: where PID 1 collects no orphans, they stay for ever."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
