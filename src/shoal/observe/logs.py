"""Log lines: for people on a terminal, JSON when asked."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from typing import Final

KEPT: Final = 2000
"""Lines of the node process's own log that it keeps in memory, to show them to who asks."""

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}


class PlainFormatter(logging.Formatter):
    """``12:03:04 node1:8000 warning sentence``; warnings and errors coloured on a terminal."""

    def __init__(self, node: str, colour: bool) -> None:
        super().__init__()
        self._node = node
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback below it if there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{level}{record.getMessage()}"
        if self._colour and record.levelno in _COLOURS:
            text = f"{_COLOURS[record.levelno]}{text}\x1b[0m"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{clock} {self._node} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, node, logger, message, and exception if there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class Recent(logging.Handler):
    """Keeps the last lines of the log in memory, each with its number and its time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: deque[tuple[int, float, str]] = deque(maxlen=KEPT)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._count += 1
        self._lines.append((self._count, record.created, self.format(record)))

    def after(self, number: int, earliest: float = 0.0) -> tuple[list[str], int]:
        """Return the lines with a greater number, and the greatest there is.

        Args:
            number: of the last line that is known already, 0 for none. One greater than any is of another process.
            earliest: seconds since the epoch; what is older is left out.
        """
        number = number if number <= self._count else 0
        lines = [text for n, at, text in list(self._lines) if n > number and at >= earliest]
        return lines, self._count


def recent() -> Recent | None:
    """Return what keeps this process's log; None where `set_up` was not called."""
    return next((h for h in logging.getLogger().handlers if isinstance(h, Recent)), None)


def set_up(node: str, level: str, style: str) -> None:
    """Send the log to standard error, and keep its end.

    Args:
        node: name of the node, stands in every line.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        style: ``auto`` and ``text`` for people, ``json`` for machines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(node) if style == "json" else PlainFormatter(node, colour=sys.stderr.isatty())
    )
    root = logging.getLogger()
    root.handlers[:] = [handler, Recent(PlainFormatter(node, colour=False))]
    root.setLevel(level.upper())
    # httpx tells of each probe at INFO: once a second and engine, of use to nobody.
    for noisy in ("httpx", "httpcore", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
