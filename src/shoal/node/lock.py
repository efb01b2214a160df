"""One process per node on a machine: the lock of the node's state directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shoal.node.errors import StartError


@contextlib.contextmanager
def sole_owner(state_dir: Path, name: str) -> Iterator[None]:
    """Hold the lock of a node's state directory: two processes would end each other's engines.

    Raises:
        StartError: another process has it, or the directory cannot be used.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state_dir / "lock").open("a+")
    except OSError as error:
        raise StartError(
            f"the state directory {state_dir} cannot be used: {error.strerror}. Set `state_dir` to one that can."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise StartError(
                f"node {name} already runs on this machine (process {pid}, state in {state_dir}). One identity, one "
                "process: stop that one first, or start this one as another node with --node HOST:PORT."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_process(state_dir: Path) -> int | None:
    """Return the id of the process that holds the lock of a state directory, None when nobody does."""
    try:
        with (state_dir / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read().strip()
                return int(text) if text.isdecimal() else None
    except OSError:
        pass
    return None
