"""Carriers through a broker under test: an asking node in this process, serving ones here or in their own."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shoal.transport.contract import Answer, Call
from shoal.transport.queued.broker import QueueSettings
from shoal.transport.queued.carrier import QueuedCarrier
from support.queued_node import Engine, carrier


def call(name: str, priority: int = 1, *, after: float | None = None, **wish: Any) -> Call:
    """Return a call for model ``m``; see `support.queued_node.Engine` for wishes. Its deadline is in `after` s."""
    return Call(
        id=name,
        engine="elsewhere:1/m-0",
        model="m",
        method=b"POST",
        target=b"/v1/completions",
        headers=((b"content-type", b"application/json"),),
        body=json.dumps(wish).encode(),
        deadline=None if after is None else time.time() + after,
        priority=priority,
    )


async def body(answer: Answer) -> bytes:
    """Return the whole body."""
    return b"".join([chunk async for chunk in answer.chunks])


async def until(condition: Callable[[], Any], deadline: float = 60.0, what: str = "") -> None:
    """Return when a condition holds; fail after `deadline` s."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Process:
    """A serving node that can be killed.

    Attributes:
        log: what it executes, a line each.
    """

    process: "subprocess.Popen[bytes]"
    log: Path

    def lines(self, word: str = "executed") -> list[str]:
        """Return ids of calls with which something has happened."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split()[1] for line in text.splitlines() if line.startswith(word)]

    def kill(self) -> None:
        """End it as a loss of power would."""
        self.process.kill()
        self.process.wait()


@dataclass
class Bench:
    """Nodes around one broker, with queues that nobody else has.

    Attributes:
        protocol: ``rabbitmq`` or ``kafka``.
        url: of the broker.
        directory: for logs.
        prefix: of the queues.
        options: more settings.
        notices: what carriers told.
    """

    protocol: str
    url: str
    directory: Path
    prefix: str
    options: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def settings(self, node: str) -> QueueSettings:
        """Return the settings of a node."""
        return QueueSettings(node=node, urls=(self.url,), prefix=self.prefix, nodes=3, **self.options)

    async def asking(self, node: str = "gateway:1") -> QueuedCarrier:
        """Return a node that serves nothing."""
        return await self._start(node, {}, Engine(node))

    async def serving(self, node: str, slots: int = 4) -> Engine:
        """Start a node in this process and return its engine."""
        engine = Engine(node)
        await self._start(node, {"m": slots}, engine)
        return engine

    async def process(self, node: str, slots: int = 4) -> Process:
        """Start a node as a process."""
        log = self.directory / f"{self.prefix}-{node.replace(':', '_')}.log"
        settings = msgspec.json.encode(self.settings(node)).decode()
        arguments = [self.protocol, settings, json.dumps({"m": slots}), str(log)]
        process = await asyncio.to_thread(_started, arguments, log.with_suffix(".err"))
        self._stack.callback(lambda: (process.kill(), process.wait()))
        assert process.stdout is not None
        ready = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 200)
        assert ready == b"ready\n", log.with_suffix(".err").read_text()
        return Process(process, log)

    async def _start(self, node: str, slots: dict[str, int], handler: Any) -> QueuedCarrier:
        made = carrier(self.protocol, self.settings(node), slots, handler, notice=self.notices.append)
        await made.start()
        self._stack.push_async_callback(made.close)
        return made


def _started(arguments: list[str], errors: Path) -> "subprocess.Popen[bytes]":
    with errors.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "support.queued_node", *arguments],
            stdout=subprocess.PIPE,
            stderr=file,
            cwd=Path(__file__).parents[1],
        )


@contextlib.asynccontextmanager
async def bench(
    protocol: str, url: str, directory: Path, prefix: str, **options: Any
) -> AsyncIterator[Bench]:
    """Yield a bench, and end all of it afterwards."""
    made = Bench(protocol, url, directory, prefix, options)
    async with made._stack:
        yield made


def run(work: Awaitable[None]) -> None:
    """Run a test's coroutine, for 300 s at most."""

    async def limited() -> None:
        async with asyncio.timeout(300):
            await work

    asyncio.run(limited())
