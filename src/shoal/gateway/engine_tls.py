"""Mutual TLS towards the cluster's engines: this node's certificate shown, one of the same authority demanded."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from shoal.gateway.messages import Credentials

if TYPE_CHECKING:
    from shoal.gateway.upstream import UpstreamConnection

# An engine whose process hangs takes connections, its kernel does, and shakes no hands. Its requests are moved when the
# node knows, as they are when it takes them and does not answer; this only ends what then is left. Seconds.
_HANDSHAKE_TIMEOUT = 60.0
_TICKET_AFTER = (
    1.0  # s after its handshake a connection is looked at for a ticket: it comes with the first answer
)


class _Context(ssl.SSLContext):
    """A client's context that takes up `session` in new connections; asyncio has no argument for that."""

    session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection, see the standard library."""
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)


def client_context(ca: str, certificate: str, key: str) -> _Context:
    """Return what a node connects to engines with.

    Args:
        ca: PEM file with the certificate of the authority that engines must have theirs from.
        certificate: PEM file with the node's own.
        key: PEM file with the private key of that.

    Raises:
        OSError: the files cannot be read, or do not belong together (`ssl.SSLError`).
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    return context


class EngineTls:
    """TLS to one engine.

    A connection resumes the session of an earlier one where the engine lets it, which takes half the processor time of
    a whole handshake off both ends. What was proved then still holds: only who had a certificate got a ticket.

    Args:
        credentials: what to show and to demand.

    Raises:
        OSError: see `client_context`.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._context = client_context(credentials.ca, credentials.certificate, credentials.key)
        self._server_name = credentials.server_name
        self._looking = False

    async def start(self, connection: UpstreamConnection) -> None:
        """Make the handshake on a new connection.

        Raises:
            OSError: it failed.
        """
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            connection.transport,
            connection,
            self._context,
            server_hostname=self._server_name,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
        )
        assert transport is not None
        connection.transport = transport
        if not self._looking:
            self._looking = True
            loop.call_later(_TICKET_AFTER, self._look, transport)

    def _look(self, transport: asyncio.Transport) -> None:
        """Keep the newest session of the connection, if it got a ticket to take it up again with."""
        self._looking = False
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        session = tls.session if tls is not None else None
        if session is not None and session.has_ticket:
            self._context.session = session
