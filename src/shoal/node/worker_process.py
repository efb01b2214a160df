"""One gateway worker process, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from itertools import count

import msgspec

from shoal.gateway.messages import (
    EngineFault,
    ExplainRequest,
    Explanation,
    FromWorker,
    KeyUsage,
    ListRequests,
    OpenRequest,
    OpenRequests,
    TableUpdate,
    ToWorker,
    WorkerFailed,
    WorkerNotice,
    WorkerReady,
    WorkerSettings,
)
from shoal.gateway.trace import Explained
from shoal.node.child_process import ChildProcess
from shoal.node.errors import StartError
from shoal.routing.table import RoutingTable

# For glibc's malloc, which others ignore (mallopt(3)). A body is held for a moment: without this, its memory goes back
# to the kernel each time, to be fetched and zeroed again for the next one. A worker keeps 16 MB at the most for that;
# the rest, and pieces of 4 MB and more, is returned as ever. Whoever starts the node may say otherwise.
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
}

# A worker that is asked and is so busy that it takes longer is not waited for. Seconds.
_ANSWER = 2.0

_NUMBERS = count()


class WorkerProcess:
    """A worker; one life per object.

    Args:
        settings: of this worker.
        on_fault: called with what it says of an engine that failed it.
        on_notice: called with what else it has to say.
        on_usage: called with what API keys have used.
        on_end: called when the process has ended after it had been started well.

    Attributes:
        index: its row in the shared counters.
        listening: it accepts connections.
        end: how it ended, as in ``ended with status 1``.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        on_fault: Callable[[EngineFault], None],
        on_notice: Callable[[WorkerNotice], None],
        on_usage: Callable[[KeyUsage], None],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_fault = on_fault
        self._on_notice = on_notice
        self._on_usage = on_usage
        self._on_end = on_end
        decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
        self._child = ChildProcess("shoal.gateway", decoder, self._heard, self._lost, self._over)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._questions: dict[int, asyncio.Future[tuple[Explained, ...]]] = {}
        self._listing: asyncio.Future[tuple[OpenRequest, ...]] | None = None
        self.index = settings.index
        self.listening = False
        self.end = ""

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._child.pid

    async def start(
        self, listening: socket.socket, counters: int, affinity: int, table: RoutingTable
    ) -> None:
        """Start the process and return when it accepts connections.

        Args:
            listening: socket it accepts on; stays open here.
            counters: descriptor of the shared counters.
            affinity: descriptor of what workers share of engines' caches.
            table: what it routes by at first.

        Raises:
            StartError: it could not.
        """
        fds = {"--counters-fd": counters, "--listen-fd": listening.fileno(), "--affinity-fd": affinity}
        await self._child.start(fds, _ALLOCATOR | os.environ)
        self.send(self._settings)
        self.send(TableUpdate(table))
        await self._ready

    def send(self, message: ToWorker) -> None:
        """Tell the worker; dropped when it is gone."""
        self._child.send(message)

    async def open_requests(self, timeout: float) -> tuple[OpenRequest, ...]:
        """Return the requests it has open; none if it does not say so within `timeout` seconds, or is gone."""
        if not self._child.reachable:
            return ()
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_future()
            self.send(ListRequests())
        done, _ = await asyncio.wait({self._listing}, timeout=timeout)
        return self._listing.result() if done else ()

    async def explain(self, name: str) -> tuple[Explained, ...]:
        """Return what the worker remembers of requests of a name; nothing if it does not say so in time."""
        if not self._child.reachable:
            return ()
        number = next(_NUMBERS)
        self._questions[number] = answer = asyncio.get_running_loop().create_future()
        self.send(ExplainRequest(number, name))
        try:
            return await asyncio.wait_for(answer, _ANSWER)
        except TimeoutError:
            return ()
        finally:
            del self._questions[number]

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    async def ended(self) -> None:
        """Return when the process is gone."""
        await self._child.ended()

    def _heard(self, message: FromWorker) -> None:
        match message:
            case WorkerReady():
                self.listening = True
                if not self._ready.done():
                    self._ready.set_result(None)
            case WorkerFailed(reason=reason):
                if not self._ready.done():
                    self._ready.set_exception(StartError(f"a gateway worker could not start: {reason}"))
            case EngineFault():
                self._on_fault(message)
            case WorkerNotice():
                self._on_notice(message)
            case KeyUsage():
                self._on_usage(message)
            case OpenRequests(rows=rows):
                if self._listing is not None and not self._listing.done():
                    self._listing.set_result(rows)
            case Explanation(number=number, requests=requests):
                question = self._questions.get(number)
                if question is not None and not question.done():
                    question.set_result(requests)

    def _lost(self) -> None:
        self.listening = False

    def _over(self, how: str) -> None:
        self.end = how
        if self._ready.done() and self._ready.exception() is None:
            self._on_end()
        elif not self._ready.done():
            self._ready.set_exception(StartError(f"a gateway worker {how} before it served"))
