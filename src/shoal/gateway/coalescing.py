"""Streams that flow are read together, a millisecond apart, where so much flows that each reading finds several.

An event costs a worker more in being woken up than in anything else, and an event of another stream that waits when it
wakes costs no wake-up. While little flows, transports read their connections as always, each event when it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from shoal.gateway.outbox import Outbox
    from shoal.gateway.upstream import UpstreamConnection

PAUSE = 0.001
"""Seconds between two readings. With what these take, an event waits for 1.5 ms at most, about."""

MANY = 16
"""Streams from which it is tried: fewer do not send enough."""

TRIED = 64
"""Readings after which it is seen whether it was worth it."""

RETRY = 1.0
"""Seconds until it is tried again if it was not; twice as many each time."""

RETRY_MOST = 32.0
"""Seconds that this grows to: to take a thousand quiet connections and give them back costs milliseconds."""

WORTH = 1.5
"""Connections with something to read that it takes, in the mean of so many readings."""

_AT_ONCE = 64  # connections read in one go; the loop sees to others before it goes on
_SIZE = 4096  # bytes of one read


class CoalescedReads:
    """Reads connections to engines whose streams have begun.

    What it reads takes the way it takes from a transport, by TLS if there is some and to
    `UpstreamConnection.data_received`. Everything else remains the transport's business: a connection that ends, or has
    much to say at once, is given back to it.

    Args:
        outbox: of what waits to be sent; it does not wait for a reading too.
    """

    __slots__ = ("_connections", "_epoll", "_loop", "_outbox", "_readings", "_ready", "_rest", "_resting")

    def __init__(self, outbox: Outbox) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._connections: dict[int, UpstreamConnection] = {}  # by descriptor
        self._epoll: select.epoll | None = None  # while they are read together
        self._resting = False  # it was not worth it just now
        self._rest = RETRY  # seconds, the next time it is not
        self._readings = self._ready = 0  # since it was last seen whether it is

    @property
    def active(self) -> bool:
        """Whether the connections are read together now."""
        return self._epoll is not None

    def add(self, connection: UpstreamConnection) -> None:
        """Read a connection, from now on or when it is worth it."""
        if connection.reads is not None or connection.raw is None:
            return
        connection.reads = self
        connection.fd = connection.raw.get_extra_info("socket").fileno()
        self._connections[connection.fd] = connection
        if self._epoll is not None:
            self._take(self._epoll, connection)
        elif len(self._connections) >= MANY and not self._resting:
            self._begin()

    def remove(self, connection: UpstreamConnection) -> None:
        """Give a connection back to its transport, before anything else is done with it."""
        connection.reads = None
        del self._connections[connection.fd]
        if self._epoll is not None:
            with contextlib.suppress(OSError):  # one that was lost is not there any more, or never was
                self._epoll.unregister(connection.fd)
            _raw(connection).resume_reading()

    @staticmethod
    def _take(epoll: select.epoll, connection: UpstreamConnection) -> None:
        raw = _raw(connection)
        if not raw.is_closing():  # it may have been lost, and is told so next
            raw.pause_reading()
            epoll.register(connection.fd, select.EPOLLIN)

    def _begin(self) -> None:
        self._epoll = epoll = select.epoll()
        self._readings = self._ready = 0
        for connection in self._connections.values():
            self._take(epoll, connection)
        self._loop.call_later(PAUSE, self._read, epoll)

    def _end(self, epoll: select.epoll) -> None:
        epoll.close()
        self._epoll = None
        for connection in self._connections.values():
            _raw(connection).resume_reading()
        self._resting = True
        self._loop.call_later(self._rest, self._retry)
        self._rest = min(2 * self._rest, RETRY_MOST)

    def _retry(self) -> None:
        self._resting = False
        if len(self._connections) >= MANY:
            self._begin()

    def _read(self, epoll: select.epoll) -> None:
        self._outbox.flush()
        ready = epoll.poll(0, _AT_ONCE)
        connections = self._connections
        for fd, _ in ready:
            connection = connections.get(fd)  # one before it may have had it closed
            if connection is None:
                continue
            try:
                data = os.read(fd, _SIZE)
            except OSError:  # the transport finds out by itself
                data = b""
            if data:
                try:
                    if connection.raw is connection.transport:
                        connection.data_received(data)
                    else:
                        _feed(connection, data)
                except Exception as error:
                    self._fail(connection, error)
            if len(data) in (0, _SIZE) and connection.reads is self:
                self.remove(connection)
        self._ready += len(ready)
        self._readings += 1
        if self._readings == TRIED:
            if self._ready < WORTH * TRIED:
                self._end(epoll)
                return
            self._rest = RETRY
            self._readings = self._ready = 0
        if len(ready) == _AT_ONCE:
            self._loop.call_soon(self._read, epoll)
        else:
            self._loop.call_later(PAUSE, self._read, epoll)

    def _fail(self, connection: UpstreamConnection, error: Exception) -> None:
        """As in a transport, what goes wrong with its bytes is the end of this connection, and of no other."""
        if connection.reads is self:
            self.remove(connection)
        transport = connection.transport
        transport.abort()
        self._loop.call_exception_handler({
            "message": "Fatal error: protocol.data_received() call failed.",
            "exception": error,
            "transport": transport,
            "protocol": connection,
        })  # fmt: skip


def _raw(connection: UpstreamConnection) -> asyncio.Transport:
    assert connection.raw is not None
    return connection.raw


def _feed(connection: UpstreamConnection, data: bytes) -> None:
    """Put bytes from the socket of a connection with TLS into that, as the transport under it would."""
    tls = cast(asyncio.BufferedProtocol, _raw(connection).get_protocol())  # as in asyncio and uvloop
    size = len(data)
    memoryview(tls.get_buffer(size))[:size] = data
    tls.buffer_updated(size)
