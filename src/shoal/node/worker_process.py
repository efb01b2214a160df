"""One gateway worker process, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from shoal.gateway.channel import Channel, open_node_end
from shoal.gateway.messages import (
    Drain,
    EngineFault,
    FromWorker,
    KeysUpdate,
    KeyUsage,
    TableUpdate,
    WorkerFailed,
    WorkerNotice,
    WorkerReady,
    WorkerSettings,
)
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

# A process whose channel has closed is ending; this long it may take. Seconds.
_END = 5.0


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
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[FromWorker] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._reaping: asyncio.Task[None] | None = None
        self.index = settings.index
        self.listening = False
        self.end = ""

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

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
        ours, theirs = socket.socketpair()
        with theirs:
            fds = {
                "--channel-fd": theirs.fileno(),
                "--counters-fd": counters,
                "--listen-fd": listening.fileno(),
                "--affinity-fd": affinity,
            }
            command = [sys.executable, "-m", "shoal.gateway", *(str(w) for pair in fds.items() for w in pair)]
            # A session of its own: Ctrl-C on a terminal is the node's to handle, workers are drained by it.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks in a millisecond
                command,
                env=_ALLOCATOR | os.environ,
                pass_fds=list(fds.values()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel = await open_node_end(ours, self._heard, self._lost)
        self._channel.send(self._settings)
        self._channel.send(TableUpdate(table))
        await self._ready

    def send(self, message: TableUpdate | KeysUpdate | Drain) -> None:
        """Tell the worker; dropped when it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> None:
        """Return when the process is gone."""
        await self._ended.wait()

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

    def _lost(self, _: Exception | None) -> None:
        """Note the end: a closed channel means that the process is gone or about to go."""
        self.listening = False
        self._channel = None
        self._reaping = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        process = self._process
        assert process is not None
        try:
            code = await asyncio.to_thread(process.wait, _END)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        self.end = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        if self._ready.done() and self._ready.exception() is None:
            self._on_end()
        elif not self._ready.done():
            self._ready.set_exception(StartError(f"a gateway worker {self.end} before it served"))
        self._ended.set()
