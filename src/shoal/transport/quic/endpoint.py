"""A node's QUIC socket: which connection a datagram belongs to, new connections from and to peers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from aioquic._buffer import Buffer
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header

from shoal.gateway.messages import Credentials
from shoal.transport.quic.connection import WINDOW, Connection
from shoal.transport.quic.frames import ALPN
from shoal.transport.quic.link import Link, Stream

log = logging.getLogger(__name__)

_CID = 8  # bytes of a connection id
_AT_ONCE = 64  # datagrams read before anything else gets its turn
_MOST_STRANGERS = 128  # connections from whoever has not shown a certificate yet
IDLE = 15.0
"""Seconds of silence that end a connection; peers ping far more often."""


class Endpoint:
    """The socket.

    Args:
        sock: bound, not blocking; stays the caller's.
        credentials: certificate to show, authority to demand.
        accept: returns who holds a stream that a peer opens.
    """

    def __init__(
        self, sock: socket.socket, credentials: Credentials, accept: Callable[[Link, int], Stream]
    ) -> None:
        self._socket = sock
        self._credentials = credentials
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._links: dict[bytes, Link] = {}
        self._strangers = 0
        self._client: QuicConfiguration | None = None
        self._server: QuicConfiguration | None = None
        self.dropped = 0
        """Datagrams that the kernel did not take."""

    def start(self) -> None:
        """Begin to read. Raises OSError if the credentials cannot be read."""
        self._client, self._server = self._configuration(client=True), self._configuration(client=False)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """End all connections."""
        self._loop.remove_reader(self._socket.fileno())
        for link in set(self._links.values()):
            link.close("the relay ends")

    def connect(self, host: str, port: int) -> Link:
        """Return a new connection to a peer, its handshake under way.

        Args:
            host: numeric address.
            port: UDP port.
        """
        assert self._client is not None
        quic = Connection(configuration=self._client, clock=self._loop.time)
        link = self._link(quic)
        self._links[quic.host_cid] = link
        if self._socket.family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        link.connect((host, port))
        return link

    def _configuration(self, *, client: bool) -> QuicConfiguration:
        made = QuicConfiguration(
            alpn_protocols=[ALPN],
            connection_id_length=_CID,
            idle_timeout=IDLE,
            is_client=client,
            max_stream_data=WINDOW,
            max_data=16 * WINDOW,
            server_name=self._credentials.server_name,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        made.load_cert_chain(self._credentials.certificate, self._credentials.key)
        made.load_verify_locations(self._credentials.ca)
        return made

    def _link(self, quic: Connection) -> Link:
        return Link(quic, self)

    # -- what links ask for

    def accept(self, link: Link, stream_id: int) -> Stream:
        """Return who holds a stream that the peer has opened."""
        return self._accept(link, stream_id)

    def issued(self, connection_id: bytes, link: Link) -> None:
        """Have datagrams with this connection id go to `link`."""
        self._links[connection_id] = link

    def retired(self, connection_id: bytes) -> None:
        """Have none go there any more."""
        self._links.pop(connection_id, None)

    def ended(self, link: Link) -> None:
        """Forget a connection."""
        for connection_id in [c for c, known in self._links.items() if known is link]:
            del self._links[connection_id]

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram, or lose it."""
        try:
            self._socket.sendto(data, address)
        except OSError:  # lost, as any datagram may be: QUIC sends again
            self.dropped += 1

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, address = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # what ICMP says of a datagram sent earlier
                continue
            self._receive(data, address)

    def _receive(self, data: bytes, address: tuple[str, int]) -> None:
        # A short header is a byte of flags and the connection id (RFC 9000, section 17.3): by far the most.
        short = data and not data[0] & 0x80
        link = self._links.get(data[1 : 1 + _CID]) if short else self._of_long_header(data, address)
        if link is None:
            return
        try:
            link.receive(data, address)
        except (
            Exception
        ) as error:  # of a library that takes apart what strangers send: no reason for others to suffer
            log.exception("a QUIC connection failed")
            link.close(f"{type(error).__name__}: {error}")

    def _of_long_header(self, data: bytes, address: tuple[str, int]) -> Link | None:
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=_CID)
        except ValueError:
            return None
        link = self._links.get(header.destination_cid)
        if (
            link is not None
            or header.packet_type != QuicPacketType.INITIAL
            or header.version != QuicProtocolVersion.VERSION_1
            or len(data) < SMALLEST_MAX_DATAGRAM_SIZE
            or self._strangers >= _MOST_STRANGERS
        ):
            return link
        assert self._server is not None
        quic = Connection(
            configuration=self._server,
            clock=self._loop.time,
            original_destination_connection_id=header.destination_cid,
        )
        link = self._link(quic)
        self._strangers += 1
        link.up.add_done_callback(self._no_stranger)
        self._links[header.destination_cid] = self._links[quic.host_cid] = link
        return link

    def _no_stranger(self, _: object) -> None:
        self._strangers -= 1
