"""The UDP socket of a node: bound to its own port alone, and hard to kill."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from shoal.cluster import shared_port
from shoal.cluster.addresses import Address, format_address, normal

_RECEIVE_BUFFER: Final = 1 << 20
_SEND_BACKLOG: Final = 1 << 20


class BindError(Exception):
    """The node's UDP port cannot be had. Its text is for people."""


class AddressInUse(BindError):  # noqa: N818
    """Another process has the port."""


class _Transport(Protocol):
    """What asyncio's and uvloop's datagram transports both have."""

    def sendto(self, data: bytes, addr: Address) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def close(self) -> None: ...


class Endpoint(asyncio.DatagramProtocol):
    """A bound UDP socket. Open it with `Endpoint.open`.

    Attributes:
        family: ``AF_INET`` or ``AF_INET6``.
        dropped: datagrams that were not sent because the kernel takes no more at the moment.
        errors: errors the network reported; all of them mean a lost datagram and no more.
    """

    def __init__(
        self, family: int, received: Callable[[bytes, Address], None], lost: Callable[[], None]
    ) -> None:
        self.family = family
        self.dropped = 0
        self.errors = 0
        self._received = received
        self._lost = lost
        self._transport: _Transport | None = None
        self._socket: socket.socket | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        received: Callable[[bytes, Address], None],
        lost: Callable[[], None],
        quic: socket.socket | None = None,
    ) -> Endpoint:
        """Bind to `host`:`port` and return the endpoint.

        Args:
            host: address or name to listen on.
            port: UDP port.
            received: called with each datagram and where it came from.
            lost: called when the socket broke by itself; it is closed then.
            quic: this node's other socket on the port, see `share`, where an endpoint before this one had it made.

        Raises:
            AddressInUse: another process has the port.
            BindError: the host does not resolve, is no address of this machine, or may not be bound.
        """
        loop = asyncio.get_running_loop()
        where = f"{format_address((host, port))}/udp"
        try:
            entries = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise BindError(f"cannot listen on {where}: {error.strerror or error}") from error
        family, _, _, _, address = entries[0]
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            with contextlib.suppress(OSError):  # a wish: the default only copes with smaller floods
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if quic is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Else neither SO_REUSEADDR nor SO_REUSEPORT: two nodes on one port would each get some of the datagrams.
            sock.bind(address)
            if quic is not None:
                shared_port.split(sock, quic=0)
            _, endpoint = await loop.create_datagram_endpoint(lambda: cls(family, received, lost), sock=sock)
            endpoint._socket = sock
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"cannot listen on {where}: another process has it; is this node running already?"
                ) from error
            raise BindError(f"cannot listen on {where}: {error.strerror or error}") from error
        return endpoint

    def share(self) -> socket.socket:
        """Return a second socket on the port, which gets QUIC's datagrams from now on; see `shoal.cluster.shared_port`.

        Raises:
            BindError: there cannot be one.
        """
        if self._socket is None or self._transport is None:
            raise BindError("the socket for heartbeats is closed")
        try:
            return shared_port.beside(self._socket)
        except OSError as error:
            raise BindError(f"the UDP port cannot be shared with QUIC: {error.strerror or error}") from error

    def send(self, datagram: bytes, address: Address) -> None:
        """Send a datagram, or drop it: datagrams may get lost anyway, and a backlog would only make them late."""
        transport = self._transport
        if transport is None:
            return
        host, port = address
        if ":" in host and self.family == socket.AF_INET:
            self.dropped += 1
            return
        if transport.get_write_buffer_size() > _SEND_BACKLOG:
            self.dropped += 1
            return
        mapped = f"::ffff:{host}" if self.family == socket.AF_INET6 and ":" not in host else host
        try:
            transport.sendto(datagram, (mapped, port))
        except (OSError, ValueError):
            self.errors += 1

    async def close(self) -> None:
        """Close the socket, without a call of `lost`, and wait until the port is free."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            await self._closed.wait()

    # -- called by the event loop ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("_Transport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int] | None) -> None:
        """Pass a datagram on. uvloop gives no address for what came from nowhere."""
        if addr is not None and self._transport is not None:
            self._received(data, normal(addr))

    def error_received(self, exc: Exception) -> None:
        """Count what ICMP or the kernel says of a datagram sent earlier: the failure detector judges, not this."""
        self.errors += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a socket that broke by itself."""
        self._closed.set()
        if self._transport is not None:
            self._transport = None
            self._lost()
