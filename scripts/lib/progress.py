"""Steps that take a while, shown while they run. Standard library only.

On a terminal one line is redrawn; elsewhere (CI, a pipe) a line is printed when a step starts, now and then,
and when it ends.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


def duration(seconds: float) -> str:
    """Return a length of time for people: ``3.2 s``, ``1 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size(count: float) -> str:
    """Return a number of bytes for people, decimal as package indexes count: ``132.7 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Step:
    """A step under way; `detail` is called whenever the line is drawn and says what is going on."""

    def __init__(self) -> None:
        self.detail: Callable[[], str] = lambda: ""


class Steps:
    """Shows steps one after the other.

    Args:
        total: how many there will be.
        out: where to.
        every: seconds between two lines of one step when `out` is no terminal.
    """

    def __init__(self, total: int, out: TextIO | None = None, every: float = 15.0) -> None:
        self._total = total
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._every = every
        self._done = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while the block runs; an exception ends it as failed and goes on up."""
        self._done += 1
        head = f"  [{self._done}/{self._total}] {title}"
        step, start, stop = Step(), time.monotonic(), threading.Event()
        if not self._terminal:
            self._line(f"{head} ...")
        painter = threading.Thread(target=self._paint, args=(head, step, start, stop), daemon=True)
        painter.start()
        outcome = "failed after"
        try:
            yield step
            outcome = "done in"
        except KeyboardInterrupt:
            outcome = "stopped after"
            raise
        finally:
            stop.set()
            painter.join()
            clear = "\r\x1b[K" if self._terminal else ""
            self._line(f"{clear}{head}: {outcome} {duration(time.monotonic() - start)}")

    def _paint(self, head: str, step: Step, start: float, stop: threading.Event) -> None:
        spinner = itertools.cycle("|/-\\")
        while not stop.wait(0.2 if self._terminal else self._every):
            elapsed, detail = duration(time.monotonic() - start), step.detail()
            line = f"{head}  {elapsed}  {detail}".rstrip()
            if self._terminal:
                width = shutil.get_terminal_size().columns - 3
                self._out.write(f"\r\x1b[K{line[:width]} {next(spinner)}")
                self._out.flush()
            else:
                self._line(line)

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
