"""The HTTP connection: uvicorn's protocol with a handle for the things ASGI does not offer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def reset(transport: asyncio.Transport) -> None:
    """Drop a connection with a TCP reset: what was not sent yet is lost and the peer gets an error."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class SimProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol that says when the client goes and lets itself be cut.

    Handlers find it under ``scope["state"]["connection"]``.

    Attributes:
        on_gone: called once when the connection is lost.
        lost: the connection is no more.
    """

    on_gone: Callable[[], None] | None = None
    lost: bool = False

    def on_message_begin(self) -> None:
        """Start a request, see uvicorn."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection, see uvicorn."""
        super().connection_lost(exc)
        self.lost = True
        if self.on_gone is not None:
            callback, self.on_gone = self.on_gone, None
            callback()

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        reset(self.transport)

    def end(self) -> None:
        """Close the connection in good order wherever the response is: what was written arrives, then it ends."""
        self.transport.close()


class ResettingProtocol(asyncio.Protocol):
    """Accepts a connection only to reset it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Reset it."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort")
        reset(transport)  # type: ignore[arg-type]
