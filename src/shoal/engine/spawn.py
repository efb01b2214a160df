"""The start of an engine's process, in a session of its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path

import msgspec

from shoal.engine import logs, record, tree
from shoal.engine.lifeline import DESCRIPTOR
from shoal.engine.record import Record

_FULL = (errno.ENOSPC, errno.EDQUOT)


class StartError(Exception):
    """The engine's process could not be started; says which and why."""


def spawn(
    words: list[str],
    variables: dict[str, str],
    state_dir: Path,
    rec: Record,
    lifeline: socket.socket | None = None,
) -> tuple[Record, int]:
    """Start an engine's process and return its record, with the process in it, and a pidfd for it.

    Blocks until the program runs, or could not be found.

    Args:
        words: command line.
        variables: environment.
        state_dir: the node's directory.
        rec: what is known of the engine before it has a process.
        lifeline: left open in the process, see `shoal.engine.lifeline`; still the caller's to close.

    Raises:
        StartError: the program or its log could not be opened.
    """
    record.keep(state_dir, rec)
    try:
        log = logs.open_log(Path(rec.log))
    except OSError as error:
        if error.errno not in _FULL:
            raise StartError(f"cannot start engine {rec.id}: {error}") from error
        log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # better without a log than not at all
    try:
        logs.write_start(log, rec.id, words)
        pid = os.posix_spawnp(
            words[0],
            words,
            variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                *([(os.POSIX_SPAWN_DUP2, lifeline.fileno(), DESCRIPTOR)] if lifeline else []),
            ],
            setsid=True,
            setsigmask=[],
            # What we ignore, it would ignore too; Python ignores the first two.
            setsigdef=[
                signal.SIGPIPE,
                signal.SIGXFSZ,
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGHUP,
                signal.SIGCHLD,
            ],
        )
    except OSError as error:
        record.forget(state_dir, rec.id)
        raise StartError(f"cannot start engine {rec.id}: {words[0]}: {error.strerror}") from error
    finally:
        os.close(log)
    try:
        pidfd = os.pidfd_open(pid)  # safe: a child's number is its own until we collect it
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        record.forget(state_dir, rec.id)
        raise StartError(f"cannot watch engine {rec.id}: {error.strerror}") from error
    found = tree.process(pid)
    assert found is not None
    rec = msgspec.structs.replace(rec, leader=found.ident, members=(found.ident,))
    record.keep(state_dir, rec)
    return rec, pidfd
