"""The client's side of the gateway: one HTTP/1.1 connection, answered in order.

`RequestReader` says what the requests are; this is about when they are answered, and about time and back-pressure.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from shoal.gateway.counters import Cell
from shoal.gateway.dispatch import dispatch
from shoal.gateway.exchange import Exchange
from shoal.gateway.reader import RequestReader
from shoal.gateway.request import Request
from shoal.gateway.responses import CONTINUE, Answer, error
from shoal.gateway.upload import HELD, Upload

if TYPE_CHECKING:
    from shoal.gateway.context import Gateway

_MAX_AHEAD = 64 * 1024  # bytes of pipelined requests taken in while one is being answered
_MOST_PENDING = 16 * 1024  # bytes: a longer answer is sent at once
_LINGER = 2.0  # s a refused client gets to read its answer before the connection is cut
_REFUSED_LINGER = 1.0  # s the same for a connection beyond the limit, unless its request comes before
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no time for an orderly end
_NEVER = float("inf")
_CROWDED = error(
    503, "Too many connections; try again later.", code="too_many_connections", headers=(b"retry-after: 1",)
)


def accept(gateway: Gateway) -> asyncio.Protocol:
    """Return the protocol for a connection that has just come: a request's, or a refusal where there are too many."""
    if len(gateway.connections) >= gateway.settings.max_connections:
        return RefusedConnection(gateway)
    return ClientConnection(gateway)


def _end_output(transport: asyncio.Transport) -> None:
    """Tell the client that this was all, and take and drop what it still sends."""
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()  # TLS: says so, then waits for the client to say the same


class RefusedConnection(asyncio.Protocol):
    """A connection beyond the limit. It gets a 503 and ends as soon as that can have been read.

    Args:
        gateway: the worker's shared state.
    """

    __slots__ = ("_gateway", "_timer", "_transport")

    _transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer at once, whatever the request will be."""
        gateway = self._gateway
        self._transport = transport  # type: ignore[assignment]
        gateway.cells[Cell.CONNECTIONS] += 1
        gateway.count_answer(_CROWDED.status)
        self._transport.write(_CROWDED.render(date=gateway.date, close=True))
        _end_output(self._transport)
        # Closed with its request unread, the client would get a reset, and perhaps no answer.
        self._timer = asyncio.get_running_loop().call_later(_REFUSED_LINGER, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Close: the client has said what it wanted."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()


class Phase(IntEnum):
    """What a connection is waiting for."""

    IDLE = 0  # a request
    HEAD = 1  # the rest of a request head
    BODY = 2  # the rest of a request body
    ANSWER = 3  # an engine
    ENDING = 4  # the client to read its last answer


_IDLE, _HEAD, _BODY, _ANSWER, _ENDING = Phase  # an enum's attributes cost a little each time


class ClientConnection(asyncio.Protocol):
    """A connection from a client.

    Args:
        gateway: the worker's shared state.
    """

    __slots__ = (
        "_ahead",
        "_deadline",
        "_early",
        "_exchange",
        "_gateway",
        "_pending",
        "_phase",
        "_reader",
        "_reading_paused",
        "_transport",
        "_tunnel",
        "_unsent",
        "write_paused",
    )

    _transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tunnel: asyncio.Transport | None = None  # where the bytes of an upgraded connection go
        self._early = b""  # those that came before there was one
        self._reader = RequestReader(gateway.settings, gateway.heads)
        self._exchange: Exchange | None = None  # the one being answered
        self._ahead = 0  # bytes received meanwhile
        self._reading_paused = False
        self._phase = _IDLE
        self._deadline = _NEVER  # of the phase, or for the client to read something
        self._pending = b""  # a whole answer that is to be sent at the end of this turn
        self.write_paused = False
        """The client does not keep up with what is sent to it."""
        self._unsent = 0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        gateway = self._gateway
        self._transport = transport  # type: ignore[assignment]
        self._deadline = gateway.coarse_now + gateway.settings.idle_timeout
        gateway.connections.add(self)
        gateway.cells[Cell.CONNECTIONS] += 1
        gateway.cells[Cell.OPEN_CONNECTIONS] += 1

    def data_received(self, data: bytes) -> None:
        """Read requests and start on the first."""
        reader = self._reader
        if reader.ended:
            if reader.upload is not None:
                self._take_upload(reader.upload, data)
            elif self._tunnel is not None:
                self._tunnel.write(data)
            elif self._exchange is not None and self._exchange.request.upgrade:
                self._early += data  # it belongs to the protocol that is asked for
                self.pause_reading()
            return
        reader.feed(data)
        if self._exchange is None:
            self._advance()
        if reader.requests:
            self._ahead += len(data)
            if self._ahead > _MAX_AHEAD and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """Abort what is under way: like nginx, take the end of input for the end of the client."""
        if self._exchange is not None:
            self._transport.abort()
        else:
            self.flush()  # the transport is closed next

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything."""
        gateway = self._gateway
        gateway.connections.discard(self)
        gateway.cells[Cell.OPEN_CONNECTIONS] -= 1
        self._reader.close()
        self._reader.requests.clear()
        self._tunnel = None
        self._pending = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def pause_writing(self) -> None:
        """Stop the source of what the client does not read."""
        self.write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._deadline = self._gateway.coarse_now + self._gateway.settings.idle_timeout
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self.write_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._advance()

    # Writing.

    def write(self, data: bytes) -> None:
        """Send bytes of a response."""
        if self._pending:
            self.flush()
        self._transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Send a whole answer, together with what else this turn of the loop has to send."""
        if self._pending or len(data) > _MOST_PENDING:
            self.write(data)
        else:
            self._pending = data
            self._gateway.outbox.add(self)

    def flush(self) -> None:
        """Send the answer that is pending, if there is one."""
        data, self._pending = self._pending, b""
        if data:
            self._transport.write(data)

    # Answering.

    def _advance(self) -> None:
        """Answer what can be answered, then say what the connection waits for."""
        requests = self._reader.requests
        while requests:
            if self.write_paused:
                return
            request = requests.popleft()
            outcome = dispatch(self._gateway, self, request)
            if type(outcome) is not Answer:
                assert isinstance(outcome, Exchange)
                self._phase = _ANSWER
                self._exchange = outcome
                outcome.start()
                return
            self._gateway.count_answer(outcome.status, request.stream)
            self._answer(request, outcome)
        if self._phase is _ENDING:
            return
        refusal = self._reader.refusal
        if refusal is None:
            self._wait()
        elif not self.write_paused:
            self._gateway.cells[Cell.BAD_REQUESTS] += 1
            self._gateway.count_answer(refusal.status)
            self._end_with(refusal)

    def _wait(self) -> None:
        """Wait for more of a request, or for the next."""
        gateway, reader = self._gateway, self._reader
        self._ahead = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if reader.idle():
            self._phase = _IDLE
        elif reader.in_body():
            self._phase = _BODY
            if reader.take_continue():
                self.write(CONTINUE)
        elif self._phase is _HEAD:
            return  # a head that drips does not move its own deadline
        else:
            self._phase = _HEAD
            self._deadline = gateway.coarse_now + gateway.settings.header_timeout
            return
        self._deadline = gateway.coarse_now + gateway.settings.idle_timeout

    def _answer(self, request: Request, answer: Answer) -> None:
        close = not self.persists(request)
        self.write(answer.render(date=self._gateway.date, close=close, head_only=request.head_only))
        if close:
            self._end()

    def _end_with(self, answer: Answer) -> None:
        """Send a refusal, and take and drop what the client still sends, so that it can read it."""
        self.write(answer.render(date=self._gateway.date, close=True))
        self._linger()

    def _linger(self) -> None:
        """Take and drop what the client still sends: were it left unread, its answer could be lost."""
        self.resume_reading()
        self.flush()
        _end_output(self._transport)
        self._phase = _ENDING
        self._deadline = self._gateway.coarse_now + _LINGER

    def _end(self) -> None:
        """Close when everything written has been sent."""
        upload, self._reader.upload = self._reader.upload, None
        self._reader.close()
        self._reader.requests.clear()
        if upload is not None and upload.remaining:
            self._linger()
            return
        self._phase = _ENDING
        self._deadline = self._gateway.coarse_now + self._gateway.settings.idle_timeout
        self.flush()
        self._transport.close()

    def _take_upload(self, upload: Upload, data: bytes) -> None:
        upload.feed(data)
        if len(upload.held) > HELD:
            self.pause_reading()
        if self._exchange is not None:
            self._exchange.heard_at = self._gateway.coarse_now

    # What an exchange asks and tells.

    def start_upload(self, upstream: asyncio.Transport) -> None:
        """Send the body that is under way to `upstream`, as it comes."""
        assert self._exchange is not None
        request = self._exchange.request
        assert request.upload is not None
        if request.expects_continue and request.upload.remaining == request.length:
            self.write(CONTINUE)
        # First: what is held may be more than the other end takes now, which pauses reading again, and once only.
        self.resume_reading()
        request.upload.attach(upstream)

    @property
    def exchange(self) -> Exchange | None:
        """What is being answered, None between requests."""
        return self._exchange

    def peer(self) -> str:
        """Return the client's IP address."""
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if address else ""

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def open_tunnel(self, upstream: asyncio.Transport) -> None:
        """Send everything that the client sends from now on to `upstream`, as it comes."""
        self._tunnel = upstream
        self.resume_reading()  # first, see `start_upload`
        if self._early:
            upstream.write(self._early)
            self._early = b""

    def close_tunnel(self) -> None:
        """The other end has closed: send what there is, then close."""
        self._tunnel = None
        self._exchange = None
        self._end()

    def persists(self, request: Request) -> bool:
        """Whether the connection stays open after this request; once said, it holds."""
        if self._gateway.closing:
            request.keep_alive = False
        return request.keep_alive

    def finished(self, request: Request) -> None:
        """The response is complete."""
        self._exchange = None
        reader = self._reader
        if not request.keep_alive:
            self._end()
        elif self._ahead or reader.requests or reader.ended or not reader.idle():
            self._advance()
        else:  # nearly always: as `_wait` does
            self._phase = _IDLE
            gateway = self._gateway
            self._deadline = gateway.coarse_now + gateway.settings.idle_timeout

    def answer_failed(self, request: Request, answer: Answer) -> None:
        """No engine has answered: send `answer`, which the exchange has counted."""
        self._exchange = None
        self._answer(request, answer)
        self._advance()

    def broken(self, *, abruptly: bool) -> None:
        """The response cannot be completed: end so that the client does not take it for complete.

        Args:
            abruptly: reset the connection, since an orderly end is just how this response would have ended.
        """
        self._exchange = None
        if abruptly:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._end()

    # Time.

    def check_deadlines(self, now: float) -> None:
        """Do what is due at `now`. Called about once a second."""
        if self.write_paused:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._deadline = now + self._gateway.settings.idle_timeout
            self._unsent = unsent
            if now >= self._deadline:
                self._transport.abort()
        elif self._exchange is not None:
            self._exchange.check_silence()
        elif now >= self._deadline:
            self._time_out()

    def _time_out(self) -> None:
        if self._phase is _ENDING:
            self._transport.abort()
        elif self._phase is _IDLE:
            self._end()
        else:
            self._reader.refuse(error(408, "The request did not come in time.", code="request_timeout"))
            self._advance()

    def drain(self, by: float) -> None:
        """Close if there is nothing to do until `by`, by the loop's clock."""
        if self._phase is _IDLE:
            self._deadline = min(self._deadline, by)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()
