"""The log files of engines: rotation and reading.

Engines outlive the node process, so nobody stands between them and their file: they write to it themselves, opened for
appending. What `diagnosis` makes of the text is another matter.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from shoal.engine.command import shown

TAIL = 256 * 1024
"""Bytes read from the end of a file: a start of vLLM writes about 20 KiB, a failed one 60 KiB."""

START = "shoal: starting engine"
"""Begins the line that parts one start from the next in the same file."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def open_log(path: Path) -> int:
    """Return a descriptor that appends to `path`, which is created, with its folder, readable for us alone.

    Raises:
        OSError: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_start(log: int, engine: str, command: Sequence[str]) -> None:
    """Write the line that begins a start of `engine`, its command line without secrets in it."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    with contextlib.suppress(OSError):  # a full disk is no reason not to start
        os.write(log, f"\n{START} {engine} at {when}: {shown(command)}\n".encode())


def note(path: Path, sentence: str) -> None:
    """Append a remark of ours to an engine's log, if the disk lets us."""
    with contextlib.suppress(OSError):
        log = open_log(path)
        try:
            os.write(log, f"shoal: {sentence}\n".encode())
        finally:
            os.close(log)


def rotate(path: Path, max_size: int, files: int) -> bool:
    """Move the content of a log that has grown beyond `max_size` bytes to ``path.1``, and so on to ``path.N``.

    The file is copied and cut to nothing, never renamed, because engines keep it open. What an engine writes between
    the end of the copy and the cut is lost: one gap at most for each rotation, some microseconds long. When the copy
    cannot be written, the disk being full for instance, the log is cut all the same: losing it is better than what a
    full disk does to the engine.

    Args:
        path: the log.
        max_size: bytes.
        files: files in all, `path` among them.

    Returns:
        whether it was rotated.
    """
    try:
        if path.stat().st_size <= max_size:
            return False
    except FileNotFoundError:
        return False
    older = [path.with_name(f"{path.name}.{number}") for number in range(1, max(1, files))]
    if older:
        older[-1].unlink(missing_ok=True)
        for source, target in reversed(list(pairwise(older))):
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
        try:
            with path.open("rb") as current, older[0].open("wb") as copy:
                shutil.copyfileobj(current, copy, 1024 * 1024)
                # One more read in the same breath as the cut.
                copy.write(current.read())
                os.truncate(path, 0)
            return True
        except OSError:
            older[0].unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def tail(path: Path, lines: int = 20) -> list[str]:
    """Return the last `lines` lines of a log, without colours; what a progress bar drew over counts as lines too."""
    return read_end(path).splitlines()[-lines:] if lines > 0 else []


def read_end(path: Path, size: int = TAIL) -> str:
    """Return the last `size` bytes of a log as text without colours, whole lines; ``""`` if there is no log."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            text = file.read(size)
    except FileNotFoundError:
        return ""
    if end > size:
        text = text.partition(b"\n")[2]
    return without_colours(text.decode(errors="replace"))


def without_colours(text: str) -> str:
    """Return text without the codes that terminals take."""
    return _ANSI.sub("", text)


def last_start(text: str) -> str:
    """Return the part of a log's text that belongs to the last start, or all of it when no start is in sight."""
    return text.rpartition(START)[2]
