"""One HTTP request on a connection of its own, cheap per event: bytes are kept, and looked at when it is over."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools
import msgspec

from benchmarks.chaos.questions import Question
from benchmarks.chaos.results import LONG_PAUSE, Pause, Request

_CONNECT_TIMEOUT = 5.0
_CHECK_INTERVAL = 1.0


class Exchange(asyncio.Protocol):
    """Sends a question and collects the response.

    Attributes:
        status: HTTP status, None while there is no head.
        body: what came of the body.
        cut: how it ended when it was not complete.
    """

    def __init__(self, head: bytes, request: Request) -> None:
        self.status: int | None = None
        self.body: list[bytes] = []
        self.cut = ""
        self.last = time.monotonic()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = head
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass
        self._request.port = transport.get_extra_info("sockname")[1]
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        now = time.monotonic()
        if self.status is not None and now - self.last > LONG_PAUSE:
            self._request.pauses.append(Pause(self.last, now))
        self.last = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(f"no HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Note how it ended."""
        self.end(f"connection lost: {type(error).__name__}" if error else "connection closed")

    # -- httptools

    def on_headers_complete(self) -> None:
        """Note the status."""
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Keep a piece."""
        self.body.append(data)

    def on_message_complete(self) -> None:
        """Be done, unless it was an interim response."""
        if self.status is not None and self.status >= 200:
            self.end("")

    def end(self, cut: str) -> None:
        """Be over; the first reason counts."""
        if self.over.done():
            return
        now = time.monotonic()
        if cut and self.status is not None and now - self.last > LONG_PAUSE:
            self._request.pauses.append(Pause(self.last, now))
        self.cut = cut
        self.over.set_result(None)
        if self._transport is not None:
            self._transport.abort()


def head(question: Question, host: str, api_key: str = "") -> bytes:
    """Return the bytes of a request."""
    body = msgspec.json.encode(question.body)
    key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
    return (
        f"POST {question.path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{key}"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode() + body


async def ask(address: tuple[str, int], data: bytes, request: Request, silence: float) -> Exchange:
    """Send a request and wait for the end of its response, or for `silence` seconds without a byte.

    Args:
        address: host and port.
        data: the request.
        request: gets port and pauses.
        silence: seconds.
    """
    exchange = Exchange(data, request)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await loop.create_connection(lambda: exchange, *address)
    except (OSError, TimeoutError) as error:
        exchange.end(f"cannot connect: {type(error).__name__}")
    try:
        while not exchange.over.done():
            await asyncio.wait({exchange.over}, timeout=_CHECK_INTERVAL)
            if time.monotonic() - exchange.last > silence:
                exchange.end(f"no byte for {silence:.0f} s")
    finally:
        exchange.end("given up")
    return exchange
