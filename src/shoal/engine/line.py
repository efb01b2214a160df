"""A connection to an engine, for a few questions one after the other: HTTP/1.1 with answers that are taken whole.

A node asks each of its engines several times a second, for as long as it runs. With a general HTTP library that was
half of what a node process took of its core.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final

import httptools
import msgspec

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of an answer's body at most."""


class Answer(msgspec.Struct, frozen=True):
    """What came back.

    Attributes:
        status: HTTP status.
        reason: its phrase, may be empty.
        content: the body.
    """

    status: int
    reason: str
    content: bytes


class AnswerError(Exception):
    """What came was no answer, or broke off; the text says how."""


class Line(asyncio.Protocol):
    """One connection. Questions are put one at a time; `connect` makes one."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._closed = False
        self._waiting: asyncio.Future[Answer] | None = None
        self._begin()

    @classmethod
    async def connect(
        cls, host: str, port: int, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> Line:
        """Return a connection that has been accepted.

        Args:
            host: name or address.
            port: TCP port.
            tls: for TLS.
            server_name: name that the certificate must have, in place of `host`.

        Raises:
            OSError: it was not (`ssl.SSLError` where TLS was the reason).
        """
        loop = asyncio.get_running_loop()
        name = (server_name or host) if tls is not None else None
        _, line = await loop.create_connection(cls, host, port, ssl=tls, server_hostname=name)
        return line

    @property
    def usable(self) -> bool:
        """Whether another question can be put: the last answer was complete, and nobody has closed the connection."""
        return not self._closed and self._waiting is None

    async def ask(self, question: bytes) -> Answer:
        """Send a whole request, head and body, and return the answer. The connection is unusable after an error.

        Raises:
            AnswerError: there was none that can be understood.
            OSError: the connection broke.
        """
        if self._closed:
            raise AnswerError("the connection was closed")
        self._begin()
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._transport.write(question)
        try:
            return await waiting
        except BaseException:
            self._closed = True
            self._transport.abort()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        if self._waiting is None:  # nobody has asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(AnswerError(str(error) or type(error).__name__))

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has gone: that may be how the answer ends."""
        self._closed = True
        if self._waiting is None:
            return
        if exc is None and self._until_end:
            self._done()
        else:
            self._fail(exc or AnswerError("the connection was closed before the answer was complete"))

    # What the parser calls.

    def on_status(self, reason: bytes) -> None:
        """Note the phrase behind the status."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the end of the body will be told."""
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """A head is complete: the answer's, or one of those that come before it."""
        status = self._parser.get_status_code()
        self._status = status
        self._until_end = not self._framed and status >= 200 and status not in (204, 304)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self._fail(AnswerError(f"an answer of more than {MAX_ANSWER} bytes"))
        else:
            self._content.append(data)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was only to say that it will come."""
        if self._status < 200:
            self._clear()
        elif self._waiting is not None:
            keeps = self._parser.should_keep_alive()
            self._done()
            if not keeps:
                self.close()

    # -- one answer

    def _begin(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._clear()

    def _clear(self) -> None:
        self._status, self._reason, self._size = 0, b"", 0
        self._content: list[bytes] = []
        self._framed = self._until_end = False

    def _done(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            answer = Answer(self._status, self._reason.decode(errors="replace"), b"".join(self._content))
            waiting.set_result(answer)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        self._closed = True
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


def question(
    method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None = None
) -> bytes:
    """Return a whole request.

    Args:
        method: of HTTP.
        target: path, and query where there is one.
        headers: all but the body's length.
        body: the content, None for none.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
