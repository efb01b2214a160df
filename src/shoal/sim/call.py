"""One HTTP request and its response, on raw ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import cached_property
from typing import Any

from shoal.sim.connection import SimProtocol
from shoal.sim.generation import ClientGoneError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


class Call:
    """What a handler works with.

    Args:
        scope: ASGI's, of a connection of `SimProtocol`.
        receive: ASGI's.
        send: ASGI's.
    """

    __slots__ = ("__dict__", "_receive", "_send", "connection", "method", "path", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.connection: SimProtocol = scope["state"]["connection"]
        self._receive = receive
        self._send = send

    @cached_property
    def headers(self) -> Mapping[bytes, bytes]:
        """Request headers, names in lower case; the first of several counts."""
        return dict(reversed(self.scope["headers"]))

    async def body(self) -> bytes:
        """Read the request's body.

        Raises:
            ClientGoneError: the client left before it was complete.
        """
        message = await self._receive()
        if message["type"] == "http.request" and not message["more_body"]:
            return bytes(message["body"])
        parts: list[bytes] = []
        while message["type"] == "http.request":
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)
            message = await self._receive()
        raise ClientGoneError

    async def respond(self, status: int, body: bytes = b"", headers: Headers = (JSON,)) -> None:
        """Send a whole response."""
        length = (b"content-length", b"%d" % len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers = ()) -> None:
        """Send the head of a stream of events."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [EVENT_STREAM, *headers]})

    async def send(self, data: bytes) -> None:
        """Send a part of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self, data: bytes = b"") -> None:
        """Send the last part of the stream."""
        if data:
            await self.send(data)
        await self._send({"type": "http.response.body", "body": b""})

    async def client_gone(self) -> None:
        """Wait until the client has left."""
        if self.connection.lost:
            return
        gone = asyncio.get_running_loop().create_future()
        self.connection.on_gone = lambda: gone.set_result(None)
        await gone
