"""The gateway workers of a node: started, told the routing table, restarted when they die, drained at the end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from shoal.gateway.channel import Channel, open_node_end
from shoal.gateway.counters import InFlight, SharedMetrics, create
from shoal.gateway.messages import (
    Drain,
    EngineFault,
    FromWorker,
    TableUpdate,
    WorkerFailed,
    WorkerReady,
    WorkerSettings,
)
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.routing.table import RoutingTable

# A worker that dies is replaced after this long: soon, but not in a busy loop when it dies at once. Seconds.
_RESTART_DELAY = 0.5


class Workers:
    """All gateway workers of one node.

    Args:
        settings: of every worker; ``index`` is filled in.
        events: gets a sentence when a worker dies or is replaced.
        on_fault: called with what a worker says of an engine that failed it.
    """

    def __init__(
        self, settings: WorkerSettings, events: Events, on_fault: Callable[[EngineFault], None]
    ) -> None:
        self._counters_fd = create(settings.workers)
        self.in_flight = InFlight(self._counters_fd, settings.workers)
        self.metrics = SharedMetrics(self._counters_fd, settings.workers)
        self._events = events
        self._on_fault = on_fault
        self._table = RoutingTable(version=0)
        self._draining = False
        self._workers = [
            _Worker(self, msgspec.structs.replace(settings, index=i)) for i in range(settings.workers)
        ]

    async def start(self) -> None:
        """Start every worker and return when all of them listen.

        Raises:
            StartError: one of them cannot listen.
        """
        results = await asyncio.gather(*(w.run() for w in self._workers), return_exceptions=True)
        failed = next((r for r in results if isinstance(r, BaseException)), None)
        if failed is not None:
            self.kill()
            raise failed

    def update(self, table: RoutingTable) -> None:
        """Send a new routing table to all workers."""
        self._table = table
        for worker in self._workers:
            worker.send(TableUpdate(table))

    async def drain(self, timeout: float) -> None:
        """Let every worker finish what it has open, for `timeout` seconds at most; return when all are gone."""
        self._draining = True
        for worker in self._workers:
            worker.send(Drain(timeout))
        await asyncio.gather(*(w.ended(timeout + 2.0) for w in self._workers))

    def kill(self) -> None:
        """End every worker at once."""
        self._draining = True
        for worker in self._workers:
            worker.kill()

    def status(self) -> list[dict[str, Any]]:
        """Return a mapping per worker: pid (None while there is none), listening."""
        return [{"pid": w.pid, "listening": w.listening} for w in self._workers]


class _Worker:
    """One worker process, and the next one when it dies."""

    def __init__(self, owner: Workers, settings: WorkerSettings) -> None:
        self._owner = owner
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[FromWorker] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self._restart: asyncio.Task[None] | None = None
        self.listening = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def send(self, message: TableUpdate | Drain) -> None:
        if self._channel is not None:
            self._channel.send(message)

    async def run(self) -> None:
        """Start a process and return when it listens; raise StartError when it cannot."""
        owner = self._owner
        self._gone.clear()
        self._ready = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            counters = owner._counters_fd
            command = [sys.executable, "-m", "shoal.gateway"]
            command += ["--channel-fd", str(theirs.fileno()), "--counters-fd", str(counters)]
            # A session of its own: Ctrl-C on a terminal is the node's to handle, workers are drained by it.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks in a millisecond
                command,
                pass_fds=[theirs.fileno(), counters],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel = await open_node_end(ours, self._heard, self._lost)
        self._channel.send(self._settings)
        self._channel.send(TableUpdate(owner._table))
        await self._ready

    def _heard(self, message: FromWorker) -> None:
        match message:
            case WorkerReady():
                self.listening = True
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(None)
            case WorkerFailed(reason=reason):
                if self._ready is not None and not self._ready.done():
                    self._ready.set_exception(StartError(f"gateway worker {self._settings.index}: {reason}"))
            case EngineFault():
                self._owner._on_fault(message)

    def _lost(self, _: Exception | None) -> None:
        """Replace the worker: a closed channel means that it is gone or about to go."""
        owner, index = self._owner, self._settings.index
        self.listening = False
        self._channel = None
        starting = self._ready is not None and not self._ready.done()
        if starting and self._ready is not None:
            self._ready.set_exception(StartError(f"gateway worker {index} ended before it listened"))
        self._restart = asyncio.create_task(self._reap(replace=not owner._draining and not starting))

    async def _reap(self, replace: bool) -> None:
        process = self._process
        if process is not None:
            try:
                code = await asyncio.to_thread(process.wait, 5)
            except subprocess.TimeoutExpired:
                process.kill()
                code = await asyncio.to_thread(process.wait)
            self._process = None
            self._owner.in_flight.clear(self._settings.index)
            self._owner.metrics.reset_gauges(self._settings.index)
        self._gone.set()
        while replace:
            text = f"gateway worker {self._settings.index} ended with status {code}: it is replaced"
            self._owner._events.add(text, "warning")
            await asyncio.sleep(_RESTART_DELAY)
            if self._owner._draining:
                return
            try:
                await self.run()
            except StartError as error:
                self._owner._events.add(str(error), "error")
            else:
                replace = False

    async def ended(self, timeout: float) -> None:
        """Return when the process is gone; it is killed after `timeout` seconds."""
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._gone.wait(), timeout)
        except TimeoutError:
            self.kill()
            await self._gone.wait()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, 9)
