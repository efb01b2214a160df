"""A gateway worker: one process, one event loop, told everything over its channel."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket

import uvloop

from shoal.gateway.affinity import Affinity
from shoal.gateway.channel import Channel, open_worker_end
from shoal.gateway.client import accept
from shoal.gateway.context import Gateway
from shoal.gateway.counters import InFlight, SharedMetrics
from shoal.gateway.key_cells import KeyCells
from shoal.gateway.messages import (
    BACKLOG,
    Drain,
    ExplainRequest,
    Explanation,
    KeysUpdate,
    ListRequests,
    OpenRequests,
    Report,
    TableUpdate,
    ToWorker,
    WorkerFailed,
    WorkerReady,
    WorkerSettings,
)
from shoal.gateway.open_requests import open_requests
from shoal.gateway.tls import ServerTls
from shoal.routing.table import RoutingTable

log = logging.getLogger("shoal.gateway")

ORPHAN_DRAIN = 30.0
"""Seconds a worker that has lost its node process gives open requests: their engines live on."""

_DRAIN_CHECK = 0.02  # s between two looks whether a drain is finished
_TLS_GOODBYE = 2.0  # s a client gets to confirm the end of a TLS connection
_FAILED = 1  # exit status


class Worker:
    """A gateway worker.

    Args:
        channel: this end of the channel's socket pair.
        counters_fd: descriptor of the shared map.
        listening: the socket to accept connections on. It belongs to the node process and outlives the worker.
        affinity_fd: descriptor of the map of `shoal.gateway.affinity`; None to have one of its own.
    """

    def __init__(
        self,
        channel: socket.socket,
        counters_fd: int,
        listening: socket.socket,
        affinity_fd: int | None = None,
    ) -> None:
        self._socket = channel
        self._listening = listening
        self._counters_fd = counters_fd
        self._affinity_fd = affinity_fd
        self._channel: Channel[ToWorker] | None = None
        self._gateway: Gateway | None = None
        self._tls: ServerTls | None = None
        self._servers: list[asyncio.Server] = []
        self._drain_by: float | None = None
        self._done: asyncio.Future[int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until told to drain, or the channel closes. Return the exit status."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        # A terminal's Ctrl-C goes to every process of the node: the node process says what happens then.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, self._drain, Drain(ORPHAN_DRAIN))
        self._channel = await open_worker_end(self._socket, self._on_message, self._on_channel_lost)
        try:
            return await self._done
        finally:
            for connection in list(self._gateway.connections) if self._gateway else ():
                connection.abort()
            await asyncio.sleep(0)  # lets connections release what they hold
            if self._gateway is not None and self._gateway.access is not None:
                self._gateway.access.flush()
            if self._gateway is not None and self._gateway.traces.spans is not None:
                await asyncio.to_thread(self._gateway.traces.close)
            self._channel.close()
            await asyncio.sleep(0)

    def _on_message(self, message: ToWorker) -> None:
        if isinstance(message, WorkerSettings):
            self._gateway = gateway = Gateway(
                message,
                InFlight(self._counters_fd, message.workers),
                SharedMetrics(self._counters_fd, message.workers),
                self._report,
                affinity=None if self._affinity_fd is None else Affinity(self._affinity_fd, message.workers),
                key_cells=KeyCells(self._counters_fd, message.workers) if message.keys is not None else None,
            )
            os.close(self._counters_fd)
            if self._affinity_fd is not None:
                os.close(self._affinity_fd)
            task = asyncio.get_running_loop().create_task(self._listen(gateway))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, TableUpdate):
            self._apply(message.table)
        elif isinstance(message, KeysUpdate):
            if self._gateway is not None and self._gateway.access is not None:
                self._gateway.access.replace(message.table)
        elif isinstance(message, ListRequests):
            assert self._channel is not None
            rows = open_requests(self._gateway.connections) if self._gateway is not None else ()
            self._channel.send(OpenRequests(rows))
        elif isinstance(message, ExplainRequest):
            if self._gateway is not None and self._channel is not None:
                self._channel.send(Explanation(message.number, self._gateway.traces.find(message.id)))
        else:
            assert isinstance(message, Drain)
            self._drain(message)

    def _on_channel_lost(self, error: Exception | None) -> None:
        if error is not None:
            log.warning("channel to the node process lost: %s", error)
        self._drain(Drain(ORPHAN_DRAIN))

    async def _listen(self, gateway: Gateway) -> None:
        assert self._channel is not None
        loop = asyncio.get_running_loop()
        try:
            settings = gateway.settings
            if settings.certificate is not None and settings.key is not None:
                self._tls = ServerTls(settings.certificate, settings.key, self._report)
            server = await loop.create_server(
                lambda: accept(gateway),
                sock=self._listening,
                backlog=BACKLOG,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=settings.header_timeout if self._tls else None,
                ssl_shutdown_timeout=_TLS_GOODBYE if self._tls else None,
            )
        except OSError as error:
            self._channel.send(WorkerFailed(f"cannot accept connections: {error}"))
            self._finish(_FAILED)
            return
        if self._drain_by is not None:
            server.close()
        self._servers.append(server)
        loop.call_later(gateway.tick_interval, self._tick)
        # What exists now stays: spare the collector going through it again and again.
        gc.collect()
        gc.freeze()
        self._channel.send(WorkerReady(os.getpid()))

    def _apply(self, table: RoutingTable) -> None:
        assert self._gateway is not None
        try:
            self._gateway.apply(table)
        except ValueError as error:
            log.error("routing table %d is not applied: %s", table.version, error)

    def _report(self, message: Report) -> None:
        assert self._channel is not None
        self._channel.send(message)

    def _tick(self) -> None:
        gateway = self._gateway
        assert gateway is not None
        gateway.tick()
        if self._tls is not None:
            self._tls.refresh()
        asyncio.get_running_loop().call_later(gateway.tick_interval, self._tick)

    def _drain(self, wanted: Drain) -> None:
        if self._drain_by is not None:
            return
        gateway = self._gateway
        if gateway is None:
            self._finish(0)
            return
        self._drain_by = gateway.now() + wanted.timeout
        for server in self._servers:
            server.close()
        gateway.drain(wanted.grace)
        self._check_drained(gateway, self._drain_by)

    def _check_drained(self, gateway: Gateway, by: float) -> None:
        if not gateway.connections or gateway.now() >= by:
            self._finish(0)
        else:
            asyncio.get_running_loop().call_later(_DRAIN_CHECK, self._check_drained, gateway, by)

    def _finish(self, status: int) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(status)


def _raise_file_limit() -> None:
    """Two descriptors per open request: take as many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(channel_fd: int, counters_fd: int, listen_fd: int, affinity_fd: int | None = None) -> int:
    """Run a worker in this process.

    Args:
        channel_fd: descriptor of this end of the channel.
        counters_fd: descriptor of the shared map.
        listen_fd: descriptor of a listening socket.
        affinity_fd: descriptor of the map of `shoal.gateway.affinity`.

    Returns:
        Exit status: 0 after a drain, 1 when it could not accept connections.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _raise_file_limit()
    worker = Worker(
        socket.socket(fileno=channel_fd), counters_fd, socket.socket(fileno=listen_fd), affinity_fd
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.run())
