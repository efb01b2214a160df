"""``python -m benchmarks.routing.host PORT... -- ARGUMENTS``: several simulated engines in one process.

The same engines as ``python -m shoal.sim``, each on a port of its own. They share a process because steps of a
simulated engine are timers: one process drives dozens of them at a small part of a core, and idle processes would
cost more than that.

Commands come as lines on stdin, answers go as lines of JSON to stdout: ``begin`` forgets all caches and starts to
watch, ``end`` tells what was seen since. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
import uvloop

from benchmarks.routing.lag import LagMeter
from shoal.sim.__main__ import make_engine
from shoal.sim.control import Control
from shoal.sim.engine import Engine
from shoal.sim.faults import FaultBoard
from shoal.sim.generate import Generator
from shoal.sim.listener import Listener, bind
from shoal.sim.openai import Service
from shoal.sim.options import Settings, parse
from shoal.sim.server import App

WATCH_EVERY = 0.02  # seconds between two looks at who has how many requests


class Host:
    """The engines of this process.

    Args:
        settings: one of each engine.
    """

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._engines = [make_engine(one) for one in settings]
        self._listeners: list[Listener] = []
        self._apps: list[App] = []
        for engine, one in zip(self._engines, settings, strict=True):
            board = FaultBoard()
            listener = Listener(bind(one.host, one.port), one.shutdown_timeout)
            app = App(
                service=Service(one.served, one.max_model_len, one.auto_tools),
                model_path=one.model,
                engine=engine,
                generator=Generator(engine, board, one.max_num_queued_reqs),
                board=board,
                control=Control(engine, board, listener),
                cached_tokens=one.cached_tokens,
                force_usage=one.force_usage,
            )
            self._listeners.append(listener)
            self._apps.append(app)
        self._watcher: asyncio.Task[None] | None = None
        self._looks: list[tuple[float, list[int]]] = []
        self._before: list[dict[str, int]] = []
        self._cpu = 0.0
        self._begun = 0.0

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        pairs = zip(self._listeners, self._apps, strict=True)
        return [loop.create_task(listener.run_app(app)) for listener, app in pairs]

    def begin(self) -> dict[str, Any]:
        """Forget what is cached and start to watch."""
        for engine in self._engines:
            engine.scheduler.pool.forget()
        self._before = [_counters(engine) for engine in self._engines]
        self._looks = []
        self._cpu, self._begun = _cpu_seconds(), time.monotonic()
        self._lag = LagMeter()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return {"engines": len(self._engines)}

    async def _watch(self) -> None:
        while True:
            self._looks.append((time.monotonic(), [engine.open for engine in self._engines]))
            await asyncio.sleep(WATCH_EVERY)

    async def end(self) -> dict[str, Any]:
        """Stop watching and tell what was seen."""
        if self._watcher is None:
            return {}
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        self._lag.stop()
        after = [_counters(engine) for engine in self._engines]
        engines = [
            {name: now[name] - then[name] for name in now}
            for now, then in zip(after, self._before, strict=True)
        ]
        return {
            "engines": engines,
            "open": [engine.open for engine in self._engines],
            "looks": self._looks,
            "late": self._lag.take(),
            "cpu": _cpu_seconds() - self._cpu,
            "seconds": time.monotonic() - self._begun,
        }


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def _counters(engine: Engine) -> dict[str, int]:
    pool, metrics = engine.scheduler.pool, engine.metrics
    return {
        "requests": engine.seen,
        "queries": pool.queries,
        "hits": pool.hits,
        "preemptions": engine.scheduler.preemptions,
        "aborted": engine.aborted,
        "generated": metrics.generation_tokens,
    }


async def serve(host: Host) -> None:
    """Answer commands until stdin ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    tasks = host.start()
    while line := await reader.readline():
        answer = await host.end() if line.strip() == b"end" else host.begin()
        print(json.dumps(answer), flush=True)
    for task in tasks:
        task.cancel()


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    split = arguments.index("--")
    ports, common = arguments[:split], arguments[split + 1 :]
    settings = [parse([*common, "--host", "127.0.0.1", "--port", port], {}) for port in ports]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def run() -> None:
            await serve(Host(settings))

        runner.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
