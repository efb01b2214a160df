"""Keep-alive connections to one engine, and what a worker counts about it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from shoal.gateway.counters import NO_MODEL, engine_block
from shoal.gateway.engine_tls import EngineTls
from shoal.gateway.heads import KnownResponse
from shoal.gateway.messages import Credentials
from shoal.gateway.request import Manner
from shoal.gateway.upstream import UpstreamConnection
from shoal.routing.table import EngineTarget

if TYPE_CHECKING:
    from shoal.gateway.admission import Admission
    from shoal.gateway.exchange import Exchange

_KEEPALIVE_IDLE = 10  # s without traffic before the kernel asks the other end
_KEEPALIVE_INTERVAL = 5  # s between its questions
_KEEPALIVE_COUNT = 3  # unanswered questions that end the connection
_USER_TIMEOUT_MS = 30_000  # sent bytes that nobody takes for so long end it too


class UnreachableError(Exception):
    """No connection to an engine could be made; ``str(error)`` says why, for people."""


class Counts:
    """The cells that count one engine's requests in one worker.

    Args:
        in_flight: this worker's row of open requests.
        column: the cells of all gateways that add up to the engine's load.
        requests: this worker's row of dispatched requests.
        faults: this worker's row of faults.
        slot: the engine's place in the rows.

    Attributes:
        work: this worker's row of work on its way, bytes of prompt (`shoal.gateway.affinity`).
    """

    __slots__ = ("column", "faults", "in_flight", "requests", "slot", "work")

    def __init__(
        self, in_flight: memoryview, column: memoryview, requests: memoryview, faults: memoryview, slot: int
    ) -> None:
        self.in_flight = in_flight
        self.column = column
        self.requests = requests
        self.faults = faults
        self.slot = slot
        self.work = memoryview(bytearray(8)).cast("q")

    @classmethod
    def private(cls) -> Counts:
        """Return counts that nobody reads, for upstreams that are no engines."""
        cells = memoryview(bytearray(32)).cast("q")
        return cls(cells, cells[1:], cells[2:], cells[3:], 0)

    def begin(self) -> None:
        """Count a request at its dispatch."""
        slot = self.slot
        self.in_flight[slot] += 1
        self.requests[slot] += 1

    def end(self) -> None:
        """Release a request."""
        self.in_flight[self.slot] -= 1

    def own(self) -> int:
        """Return this worker's open requests."""
        return self.in_flight[self.slot]

    def fault(self) -> None:
        """Count a fault."""
        self.faults[self.slot] += 1


def _manner(target: EngineTarget, metered: bool) -> Manner | None:
    """Return what is changed in requests for an engine, None if nothing is."""
    prefix = target.base_path.rstrip("/").encode()
    lines: dict[bytes, bytes] = {}
    if target.host_header is not None:
        lines[b"host"] = b"host: " + target.host_header.encode()
    if target.api_key is not None:
        lines[b"authorization"] = b"authorization: Bearer " + target.api_key.encode()
    if not prefix and not lines:
        return None
    # What is in front of an external engine might compress its answer, and then its usage could not be read.
    unreadable = {b"accept-encoding"} if metered else set()
    return Manner(prefix, tuple(lines.values()), frozenset(lines.keys() | unreadable))


class Pool:
    """Connections to one engine, or to the control app.

    Args:
        target: the engine.
        counts: where its requests are counted.
        keepalive: idle connections kept.
        connect_timeout: seconds.
        unix_socket: connect there and not to the target's address.
        metered: its answers are looked into.
        credentials: for the target's authority, if it has one; None where this node has none of that authority.
    """

    def __init__(
        self,
        target: EngineTarget,
        counts: Counts,
        *,
        keepalive: int,
        connect_timeout: float,
        unix_socket: str | None = None,
        metered: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self.target = target
        self.counts = counts
        self.block = engine_block(target.slot) if unix_socket is None else NO_MODEL
        self.engine_line = b"\r\nx-shoal-engine: " + target.id.encode()
        self.response = KnownResponse(b"" if unix_socket is not None else self.engine_line)
        self.manner = _manner(target, metered)
        """What is changed in requests that go there; None if nothing is."""
        self.is_control = unix_socket is not None
        self.admission: Admission | None = None
        """Where requests wait for a place that becomes free here."""
        self._idle: list[UpstreamConnection] = []
        self._keepalive = keepalive
        self._connect_timeout = connect_timeout
        self._unix_socket = unix_socket
        self._tls = ssl.create_default_context() if target.tls else None
        self._engine_tls: EngineTls | None = None
        self._no_tls = ""  # why there is none to an engine that demands it
        if target.authority:
            self._set_up_engine_tls(credentials)
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired = False

    def _set_up_engine_tls(self, credentials: Credentials | None) -> None:
        if credentials is None:
            self._no_tls = (
                "its certificate is of an authority that this node does not know: another cluster secret?"
            )
            return
        try:
            self._engine_tls = EngineTls(credentials)
        except OSError as error:
            self._no_tls = f"the node's certificate cannot be used: {error}"

    def has_room(self, share: float = 1.0) -> bool:
        """Whether the engine has fewer requests than `share` of what it should have at most."""
        capacity = self.target.capacity
        return not capacity or sum(self.counts.column) < max(1, int(capacity * share))

    def end(self) -> None:
        """Release a request, and give its place to one that waits."""
        counts = self.counts
        counts.in_flight[counts.slot] -= 1
        admission = self.admission
        if admission is not None and admission.waiting:
            admission.pump()

    def take(self) -> UpstreamConnection | None:
        """Return the idle connection used last, None if there is none."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.alive:
                return connection
        return None

    def give(self, connection: UpstreamConnection) -> None:
        """Take back a connection that has finished its exchange."""
        if self._retired or len(self._idle) >= self._keepalive:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop a connection that was lost while idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def retire(self) -> None:
        """Keep no idle connections from now on: the engine has left the table, or its address has changed."""
        self._retired = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def connect(self, exchange: Exchange) -> None:
        """Open a connection for `exchange`; it is told by `on_connected` or `on_unreachable`."""
        task = asyncio.get_running_loop().create_task(self._connect_for(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_for(self, exchange: Exchange) -> None:
        try:
            connection = await self._connect()
        except UnreachableError as error:
            exchange.on_unreachable(self, str(error))
        else:
            exchange.on_connected(connection)

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connection = UpstreamConnection(self)
        if self._no_tls:
            raise UnreachableError(self._no_tls)
        try:
            async with asyncio.timeout(self._connect_timeout):
                if self._unix_socket is not None:
                    await loop.create_unix_connection(lambda: connection, self._unix_socket)
                else:
                    await loop.create_connection(
                        lambda: connection, self.target.host, self.target.port, ssl=self._tls
                    )
                    _find_dead_peers(connection.transport)
            if (
                self._engine_tls is not None
            ):  # beyond the time-out: a busy engine is slow to shake hands, not away
                await self._engine_tls.start(connection)
        except TimeoutError:
            raise UnreachableError(f"no connection within {self._connect_timeout:g} s") from None
        except ConnectionRefusedError:
            raise UnreachableError("connection refused") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA does not take
            raise UnreachableError(f"cannot connect: {error}") from None
        return connection


def _find_dead_peers(transport: asyncio.Transport) -> None:
    """Have the kernel end connections to machines that have vanished without a word."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
