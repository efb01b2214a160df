"""Reading an engine's log as it grows, over its rotations, and from a time on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shoal.engine.logs import TAIL, without_colours

MOST: Final = 1024 * 1024
"""Bytes read at once."""

_STAMP: Final = re.compile(r"(?:(\d{4})-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_LOOK: Final = 120  # characters of a line in which its time would stand
_YEAR: Final = 366 * 86400


def last_lines(path: Path, count: int, *, whole: bool) -> tuple[list[str], str]:
    """Return the last lines of a log, and where they end.

    Args:
        path: the log; there need not be one.
        count: lines at most.
        whole: leave a last line out that is not complete: it comes with `news`.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - max(TAIL, min(MOST, 400 * count)))
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return [], "0"
    end = data.rfind(b"\n") + 1 if whole else len(data)
    lines = _lines(data[data.find(b"\n") + 1 if start else 0 : end])
    return lines[-count:], str(start + end)


def news(path: Path, cursor: str) -> tuple[list[str], str]:
    """Return the complete lines that were written since, and where they end.

    When the log was rotated meanwhile, the rest of the former file comes first.

    Args:
        path: the log.
        cursor: where the last answer ended.

    Raises:
        OSError: it cannot be read.
        ValueError: the cursor is none.
    """
    at = int(cursor)
    lines: list[str] = []
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return [], "0"
    if size < at:
        try:
            lines = _lines(_part(path.with_name(f"{path.name}.1"), at))
        except FileNotFoundError:
            lines = []
        at = 0
    data = _part(path, at)
    end = data.rfind(b"\n") + 1
    if not end and len(data) == MOST:
        end = MOST  # a line that long comes in pieces
    return lines + _lines(data[:end]), str(at + end)


def since(lines: Iterable[str], earliest: float) -> list[str]:
    """Return the lines from a time on, by the times that they tell; a line without one belongs to that before it.

    Args:
        lines: oldest first. Times are those of vLLM (month and day, local time) and of Shoal.
        earliest: seconds since the epoch.
    """
    kept: list[str] = []
    late = False
    for line in lines:
        if not late:
            told = _time_of(line)
            late = told is not None and told >= earliest
        if late:
            kept.append(line)
    return kept


def _time_of(line: str) -> float | None:
    found = _STAMP.search(line, 0, _LOOK)
    if found is None:
        return None
    now = time.time()
    year, *rest = found.groups()
    month, day, hour, minute, second = map(int, rest)
    try:
        told = time.mktime(
            (int(year or time.localtime(now).tm_year), month, day, hour, minute, second, 0, 0, -1)
        )
    except (OverflowError, ValueError):
        return None
    return told - _YEAR if year is None and told > now + 86400 else told  # of last December


def _part(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(MOST)


def _lines(data: bytes) -> list[str]:
    return without_colours(data.decode(errors="replace")).splitlines()
