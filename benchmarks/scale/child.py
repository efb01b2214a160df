"""Programs in processes of their own that a measurement talks to by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_TIMEOUT = 120.0  # s


class Child:
    """A child that runs a module of this package; ends with the ``with`` block."""

    def __init__(self, module: str, **arguments: Any) -> None:
        words = [sys.executable, "-m", f"benchmarks.scale.{module}", json.dumps(arguments)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, what: str, **more: Any) -> None:
        """Ask something; `answer` returns what comes of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next answer; raise EOFError if the child has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"a process of the measurement ended with status {self._process.wait(_TIMEOUT)}")
        return dict(json.loads(line))

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Ask something and return the answer."""
        self.tell(what, **more)
        return self.answer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


async def answer_lines(answer: Answer) -> None:
    """In a child: answer questions until nobody asks any more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        print(json.dumps(await answer(json.loads(line))), flush=True)
