"""The engine's side: one keep-alive HTTP/1.1 connection that carries one request at a time.

llhttp (strict) judges every byte of a response; the bytes themselves are passed on as they came. All that is
taken apart is the head, once (`shoal.gateway.response_head`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import httptools

from shoal.gateway.heads import MAX_DIGITS
from shoal.gateway.response_head import BadResponseError, Framing, ResponseHead, parse_head

if TYPE_CHECKING:
    from shoal.gateway.coalescing import CoalescedReads
    from shoal.gateway.exchange import Exchange
    from shoal.gateway.pool import Pool
    from shoal.gateway.request import Request

MAX_HEAD = 64 * 1024
"""Longest response head taken, bytes."""

# A reused connection that ends within so many seconds, without an answer, had been closed by its other end already.
# By the coarse clock, so it must be longer than a tick.
_STALE_WITHIN = 2.0
_JOINED = 16 * 1024  # bytes: a shorter body is copied behind its head, which costs less than a second write

_HEAD_END = b"\r\n\r\n"
_SURPLUS = "there are bytes behind it"
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing  # an enum's attributes cost a little each time


class UpstreamConnection(asyncio.Protocol):
    """A connection to one engine. It is idle in the engine's pool, or it carries one exchange.

    Args:
        pool: of the engine.
    """

    __slots__ = (
        "_begun",
        "_between",
        "_ended",
        "_framing",
        "_head",
        "_in_body",
        "_keep_alive",
        "_parser",
        "_paused",
        "_pending",
        "_remaining",
        "alive",
        "exchange",
        "fd",
        "on_chunk",
        "pool",
        "raw",
        "reads",
        "reused",
        "transport",
    )

    transport: asyncio.Transport
    way: ClassVar[str] = ""
    """Added to what is said of a lost connection, where it leads to the engine through somebody else."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.exchange: Exchange | None = None
        self.alive = True
        self.reused = False
        self.reads: CoalescedReads | None = None
        """Has the say over how this connection is read."""
        self.raw: asyncio.Transport | None = None
        """Reads the socket: the transport, or what is under its TLS; None where that is not to be had."""
        self.fd = -1
        self._parser = httptools.HttpResponseParser(self)
        self._begun = 0  # messages llhttp saw begin and end since the request was sent
        self._ended = 0
        self._head = b""
        self._in_body = False
        self._between = False  # llhttp stands between two chunks
        self.on_chunk: Callable[[bytes], bool] | None = None
        """Set while it is to be asked, before llhttp, to take bytes that begin where a chunk may begin.

        It takes them (returns true) if they are one whole chunk and nothing else.
        """
        self._framing = _NONE
        self._remaining = 0
        self._keep_alive = False
        self._paused = False
        self._pending: tuple[bytes, bytes] | None = None  # a request to be sent at the end of this turn

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Carry `exchange`: send its request; the response, or its failure, is told to it."""
        self.exchange = exchange
        self._begun = self._ended = 0
        self._in_body = self._between = False
        self.on_chunk = None
        self._pending = head, body
        if exchange.request.upload is None:
            exchange.gateway.outbox.add(self)
        else:
            self.flush()  # the body follows by another way

    def flush(self) -> None:
        """Send the request that is pending, if there is one."""
        if self._pending is None:
            return
        head, body = self._pending
        self._pending = None
        if len(body) < _JOINED:
            self.transport.write(head + _HEAD_END + body)
        else:
            self.transport.writelines((head + _HEAD_END, body))

    def take_chunks(self, take: Callable[[bytes], bool]) -> None:
        """Ask `take` about what begins where a chunk may begin, see `on_chunk`: a stream of events has begun."""
        self.on_chunk = take
        sock = self.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # Otherwise Linux confirms each event by a packet of its own as soon as it is read. This holds until a
            # packet has waited 40 ms for another one to be confirmed with it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def close(self) -> None:
        """Close at once. The engine sees its client go away and aborts the request, if one is running."""
        self.alive = False
        self.exchange = self.on_chunk = self._pending = None
        self._read_alone()
        self.transport.abort()

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True
        self._read_alone()
        self.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        self.transport.resume_reading()

    def _read_alone(self) -> None:
        if self.reads is not None:
            self.reads.remove(self)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """Count messages: one request has one response."""
        self._begun += 1

    def on_message_complete(self) -> None:
        """Count complete messages."""
        self._ended += 1

    def on_chunk_header(self) -> None:
        """Note that llhttp is inside a chunk."""
        self._between = False

    def on_chunk_complete(self) -> None:
        """Note that it is behind one; the last one, of size 0, ends with the message."""
        self._between = True

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. TLS that is not there yet leaves `raw` as it is (`EngineTls.start`)."""
        self.transport = transport  # type: ignore[assignment]
        self.raw = self.transport if transport.get_extra_info("sslcontext") is None else None

    def data_received(self, data: bytes) -> None:
        """Follow the framing and pass the bytes on."""
        exchange = self.exchange
        if exchange is None:  # an idle connection has nothing to say, except that it ends
            self.pool.forget(self)
            self.close()
            return
        if self._pending is not None:
            self._fail_early(exchange)
            return
        if self._between and self.on_chunk is not None and self.on_chunk(data):
            return  # llhttp stays where it is
        if exchange.request.plain and not self._begun and not self._head and self._take_known(exchange, data):
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._ended == 0:
                self._fail(f"invalid response: {error}")
                return
            self._begun += 1  # what follows the response is not even HTTP
        if not data.endswith(b"\r\n"):
            self._between = False  # there may be half of a size behind the last chunk
        if self._in_body:
            self._body(exchange, data)
            return
        if self._head:
            data = self._head + data
            self._head = b""
        try:
            self._take_head(exchange, data)
        except BadResponseError as error:
            self._fail(f"invalid response: {error}")

    def eof_received(self) -> None:
        """Not usable any more; asyncio closes the transport next."""
        self.alive = False
        self._read_alone()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange, if there is one."""
        self.alive = False
        self._read_alone()
        exchange, self.exchange = self.exchange, None
        self.on_chunk = self._pending = None
        if exchange is None:
            self.pool.forget(self)
        elif self._in_body:
            if self._framing is _CLOSE and exc is None:
                exchange.on_end()
            else:
                exchange.on_truncated(("connection reset" if exc else "connection closed early") + self.way)
        elif self.reused and not self._begun and exchange.silence() < _STALE_WITHIN:
            exchange.on_stale()
        else:
            exchange.on_failed(
                ("connection reset" if exc else "connection closed without an answer") + self.way
            )

    def pause_writing(self) -> None:
        """Have the client wait if its file is under way; other requests are in memory anyway."""
        if self.exchange is not None and self.exchange.request.upload is not None:
            self.exchange.client.pause_reading()

    def resume_writing(self) -> None:
        """Go on, see `pause_writing`."""
        if self.exchange is not None and self.exchange.request.upload is not None:
            self.exchange.client.resume_reading()

    # The response.

    def _fail_early(self, exchange: Exchange) -> None:
        """Something has come before the request was sent, so it is no answer to that."""
        if self.reused:  # it may say why the engine ends a connection that has been idle
            self.close()
            exchange.on_stale()
        else:
            self._fail("it spoke before it was asked")

    def _take_known(self, exchange: Exchange, data: bytes) -> bool:
        """Pass `data` on if they are a whole response, and nothing else, whose head is known. Return whether they are.

        llhttp does not get to see it, and stays where it is between two responses.
        """
        known = self.pool.response.known
        if known is None or not data.startswith(known.before):
            return False
        start = known.before_size
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(known.after, end):
            return False
        start = end + known.after_size
        if int(digits) != len(data) - start:
            return False
        self.exchange = None
        if self._paused:
            self.resume()
        if self.alive and self.transport.get_write_buffer_size() == 0:
            self.pool.give(self)
        else:
            self.close()
        exchange.on_known(known, digits, data[start:])
        return True

    def _take_head(self, exchange: Exchange, data: bytes) -> None:
        end = data.find(_HEAD_END)
        if end < 0:
            if len(data) > MAX_HEAD:
                raise BadResponseError("its head is too long")
            self._head = data
            return
        request = exchange.request
        head = parse_head(data[:end], request.head_only, request.http10)
        rest = data[end + 4 :]
        if head.status < 200:
            if head.status == 101:
                if not request.upgrade:
                    raise BadResponseError("it changes the protocol, which nobody asked for")
                exchange.on_upgraded(head, rest)
                return
            self._begun -= 1
            self._ended -= 1
            self.reused = False  # the connection is alive
            exchange.on_interim(head)
            if rest:
                self._take_head(exchange, rest)
            return
        self._framing = framing = head.framing
        if framing is _CHUNKED and self._begun > 1:
            raise BadResponseError(_SURPLUS)
        self._in_body = True
        self._keep_alive = head.keep_alive
        if framing is _LENGTH:
            self._remaining = head.length
            self._learn(request, data[:end], head)
            if len(rest) > head.length:
                rest = rest[: head.length]
                self._keep_alive = False
        elif framing is _NONE:
            if rest:
                rest = b""
                self._keep_alive = False
            if request.head_only:
                # llhttp waits for the body that a HEAD response announces and does not have.
                self._parser = httptools.HttpResponseParser(self)
        exchange.on_head(head, rest)
        self._advance(exchange, len(rest))

    def _learn(self, request: Request, data: bytes, head: ResponseHead) -> None:
        """Note a head that may come again."""
        if request.plain and head.status == 200 and head.keep_alive:
            self.pool.response.learn(data, head.head)

    def _body(self, exchange: Exchange, data: bytes) -> None:
        if self._framing is _LENGTH:
            if len(data) > self._remaining:
                data = data[: self._remaining]
                self._keep_alive = False
        elif self._begun > 1 and self._framing is _CHUNKED:
            # Where the response ends in these bytes is not known, and the client must not take what follows it for
            # an answer.
            self._fail(_SURPLUS)
            return
        exchange.on_body(data)
        self._advance(exchange, len(data))

    def _advance(self, exchange: Exchange, received: int) -> None:
        """Finish if the body is complete with the bytes just passed on."""
        if self.exchange is not exchange:
            return  # it has given this connection up
        framing = self._framing
        if framing is _CHUNKED:
            if not self._ended:
                return
        elif framing is _LENGTH:
            self._remaining -= received
            if self._remaining:
                return
        elif framing is _CLOSE:
            return
        self.exchange = self.on_chunk = None
        self._read_alone()
        if self._paused:
            self.resume()
        if self._keep_alive and self.alive and self.transport.get_write_buffer_size() == 0:
            self.pool.give(self)
        else:
            self.close()
        exchange.on_end()

    def _fail(self, reason: str) -> None:
        exchange, in_body = self.exchange, self._in_body
        self.close()
        if exchange is None:
            return
        if in_body:
            exchange.on_truncated(reason)
        else:
            exchange.on_failed(reason)
