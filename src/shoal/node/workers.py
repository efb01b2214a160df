"""The gateway workers of a node: started, told the routing table, replaced when they die or at a reload, drained."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec

from shoal.gateway import affinity
from shoal.gateway.affinity import Affinity
from shoal.gateway.counters import InFlight, SharedMetrics, create
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.keys import KeyTable
from shoal.gateway.messages import (
    Drain,
    EngineFault,
    KeysUpdate,
    KeyUsage,
    OpenRequest,
    TableUpdate,
    WorkerNotice,
    WorkerSettings,
)
from shoal.gateway.trace import Explained
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.listening import listening_sockets
from shoal.node.worker_process import WorkerProcess
from shoal.routing.table import RoutingTable

# A worker that dies is replaced after this long: soon, but not in a busy loop when it dies at once. Seconds.
_RESTART_DELAY = 0.5
# Idle connections to a worker that is replaced stay open this long: nobody is in a hurry, and closing one just when its
# client sends the next request would be an error for the client. Seconds.
_RELOAD_GRACE = 5.0
# Beyond its drain time, before a worker is killed. Seconds.
_LATE = 2.0
# What several workers say within so many seconds is told once.
_SAME_NOTICE = 10.0


class Workers:
    """All gateway workers of one node, each with a listening socket that outlives it.

    The sockets belong to the node process: what connects while a worker is replaced waits in the socket's queue for the
    next one. Each worker has two rows in the shared counters, one for it and one for its replacement, so that both can
    count while the former finishes what it has open.

    Args:
        settings: of every worker; ``index``, ``workers`` and ``keys`` are filled in.
        count: how many workers.
        events: gets a sentence when a worker dies or is replaced.
        on_fault: called with what a worker says of an engine that failed it.
        prefix_memory: bytes to remember in which engine has which prompts.
        on_usage: called with what API keys have used.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        count: int,
        events: Events,
        on_fault: Callable[[EngineFault], None],
        *,
        prefix_memory: int = 1024 * 1024,
        on_usage: Callable[[KeyUsage], None] = lambda _: None,
    ) -> None:
        rows = 2 * count
        self._settings = msgspec.structs.replace(settings, workers=rows)
        self._counters = create(rows, size(rows))
        self.in_flight = InFlight(self._counters, rows)
        self.metrics = SharedMetrics(self._counters, rows)
        self._affinity = affinity.create(rows, prefix_memory)
        self.affinity = Affinity(self._affinity, rows)
        self.key_cells = KeyCells(self._counters, rows)
        self._events = events
        self._on_fault = on_fault
        self._on_usage = on_usage
        self._table = RoutingTable(version=0)
        self._ending = False
        self.replaced = 0
        """Workers that had to be replaced because they had died."""
        self._told: dict[WorkerNotice, float] = {}
        self._sockets = listening_sockets(settings.host, settings.port, count)
        self._serving: list[WorkerProcess | None] = [None] * count
        self._former: list[WorkerProcess | None] = [None] * count
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start every worker and return when all of them accept connections.

        Raises:
            StartError: one of them cannot.
        """
        try:
            await asyncio.gather(*(self._start(i) for i in range(len(self._serving))))
        except StartError:
            self.kill()
            raise

    def update(self, table: RoutingTable) -> None:
        """Send a new routing table to all workers."""
        self._table = table
        for worker in (*self._serving, *self._former):
            if worker is not None:
                worker.send(TableUpdate(table))

    def use_keys(self, table: KeyTable | None) -> None:
        """Have all workers ask for these API keys; that they ask for any at all, or for none, begins with new ones."""
        self._settings = msgspec.structs.replace(self._settings, keys=table)
        for worker in (*self._serving, *self._former):
            if worker is not None and table is not None:
                worker.send(KeysUpdate(table))

    async def reload(self, settings: WorkerSettings, drain_timeout: float) -> None:
        """Put a new process in the place of every worker; the former ones finish what they have open.

        Args:
            settings: of the new ones.
            drain_timeout: seconds the former ones may take; longer streams are cut.

        Raises:
            StartError: a new one could not be started; the former one goes on in its place.
        """
        async with self._reloading:
            former_settings = self._settings
            self._settings = msgspec.structs.replace(
                settings, workers=former_settings.workers, keys=former_settings.keys
            )
            for i in range(len(self._serving)):
                if (still := self._former[i]) is not None:  # its row is needed
                    await still.ended()
                former = self._serving[i]
                await self._start(i)
                if former is not None:
                    self._former[i] = former
                    former.send(Drain(drain_timeout, _RELOAD_GRACE))
                    self._spawn(self._see_off(i, former, drain_timeout))

    async def drain(self, timeout: float) -> None:
        """Accept nothing more, let every worker finish what it has open; return when all are gone.

        Args:
            timeout: seconds they may take.
        """
        self._ending = True
        self._close_sockets()
        workers = [w for w in (*self._serving, *self._former) if w is not None]
        for worker in workers:
            worker.send(Drain(timeout))
        await asyncio.gather(*(_end_within(w, timeout + _LATE) for w in workers))

    def kill(self) -> None:
        """End every worker at once."""
        self._ending = True
        self._close_sockets()
        for worker in (*self._serving, *self._former):
            if worker is not None:
                worker.kill()

    def status(self) -> list[dict[str, Any]]:
        """Return a mapping per worker: pid (None while there is none), listening."""
        return [{"pid": w.pid if w else None, "listening": bool(w and w.listening)} for w in self._serving]

    async def open_requests(self, timeout: float) -> list[OpenRequest]:
        """Return the requests to engines that are open here, the oldest first.

        Args:
            timeout: seconds that a worker may take to say so.
        """
        workers = [w for w in (*self._serving, *self._former) if w is not None]
        lists = await asyncio.gather(*(w.open_requests(timeout) for w in workers))
        return sorted(chain.from_iterable(lists), key=lambda request: -request.age)

    async def explain(self, name: str) -> list[Explained]:
        """Return what workers remember of requests of a name, those included that only finish what they have open."""
        workers = [w for w in (*self._serving, *self._former) if w is not None]
        told = await asyncio.gather(*(worker.explain(name) for worker in workers))
        return [request for requests in told for request in requests]

    def pids(self) -> dict[int, int]:
        """Return the process ids of those that serve, by place."""
        return {place: worker.pid for place, worker in enumerate(self._serving) if worker and worker.pid}

    async def _start(self, place: int) -> None:
        """Start a worker on the socket at `place`, in whichever of its two rows is free, and let it serve there."""
        count = len(self._serving)
        taken = {w.index for w in (self._serving[place], self._former[place]) if w is not None}
        index = next(i for i in (place, place + count) if i not in taken)
        worker = WorkerProcess(
            msgspec.structs.replace(self._settings, index=index),
            self._on_fault,
            self._on_notice,
            self._on_usage,
            lambda: self._lost(place, worker),
        )
        await worker.start(self._sockets[place], self._counters, self._affinity, self._table)
        self._serving[place] = worker
        if self._ending:
            worker.kill()

    def _on_notice(self, notice: WorkerNotice) -> None:
        now = time.monotonic()
        self._told = {said: at for said, at in self._told.items() if now - at < _SAME_NOTICE}
        if notice not in self._told:
            self._told[notice] = now
            self._events.add(notice.text, "info" if notice.level == "info" else "warning")

    def _lost(self, place: int, worker: WorkerProcess) -> None:
        """Clean up after a process that has ended, and replace it unless that was wanted."""
        self.in_flight.clear(worker.index)
        self.affinity.clear(worker.index)
        self.metrics.reset_gauges(worker.index)
        self.key_cells.clear_open(worker.index)
        if self._former[place] is worker:
            self._former[place] = None
        if self._serving[place] is worker:
            self._serving[place] = None
            if not self._ending:
                self.replaced += 1
                self._spawn(self._replace(place, f"gateway worker {place} {worker.end}: it is replaced"))

    async def _replace(self, place: int, why: str) -> None:
        self._events.add(why, "warning")
        while not self._ending:
            await asyncio.sleep(_RESTART_DELAY)
            async with self._reloading:
                if self._serving[place] is not None or self._ending:
                    return
                try:
                    await self._start(place)
                except StartError as error:
                    self._events.add(str(error), "error")
                else:
                    return

    async def _see_off(self, place: int, worker: WorkerProcess, timeout: float) -> None:
        await _end_within(worker, timeout + _LATE)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _end_within(worker: WorkerProcess, timeout: float) -> None:
    """Return when the worker has ended; it is killed after `timeout` seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.ended(), timeout)
        return
    worker.kill()
    await worker.ended()
