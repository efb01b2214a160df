"""One connection at work: datagrams in and out, timers, and what happens on its streams told to who holds them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from shoal.transport.quic.connection import Connection, Untrusted

_HIGH, _LOW = 512 * 1024, 256 * 1024  # bytes of a stream not acknowledged, above which its writer waits


class Stream(Protocol):
    """Who holds a stream."""

    def on_data(self, data: bytes, end: bool) -> None:
        """Take what has come."""

    def on_reset(self) -> None:
        """The peer sends no more, and has not ended."""

    def on_unwanted(self) -> None:
        """The peer takes no more."""

    def on_lost(self, why: str) -> None:
        """The connection is gone."""


class Socket(Protocol):
    """What a link needs of the endpoint."""

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram, or lose it."""

    def accept(self, link: Link, stream_id: int) -> Stream:
        """Return who holds a stream that the peer has opened."""
        ...

    def issued(self, connection_id: bytes, link: Link) -> None:
        """Have datagrams with this connection id go to `link`."""

    def retired(self, connection_id: bytes) -> None:
        """Have none go there any more."""

    def ended(self, link: Link) -> None:
        """Forget a connection."""


class Link:
    """A connection.

    Args:
        quic: the connection.
        endpoint: the socket it is on.

    Attributes:
        up: the handshake is complete and the peer is trusted.
        over: why it has ended, None while it has not.
        gone: set when it has.
    """

    def __init__(self, quic: Connection, endpoint: Socket) -> None:
        self.quic = quic
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self.up: asyncio.Future[None] = self._loop.create_future()
        self.over: str | None = None
        self.gone = asyncio.Event()

    # -- use

    def open(self, stream: Stream) -> int:
        """Return the id of a new stream, held by `stream`."""
        stream_id = self.quic.get_next_available_stream_id()
        self._streams[stream_id] = stream
        self.quic.send_stream_data(stream_id, b"")
        return stream_id

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send on a stream."""
        if self.over is None:
            self.quic.send_stream_data(stream_id, data, end)
            self.flush_soon()

    async def drain(self, stream_id: int) -> None:
        """Return when the peer has taken enough of a stream for more to be written."""
        while self.over is None and self.quic.waiting(stream_id) > _HIGH:
            waiter = self._waiters[stream_id] = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiters.pop(stream_id, None)

    def drop(self, stream_id: int, *, reset: int | None = None, stop: int | None = None) -> None:
        """Let go of a stream.

        Args:
            stream_id: of it.
            reset: error code with which this end breaks off what it sends, None if it has ended that.
            stop: error code with which it refuses what the peer sends, None if it has taken all.
        """
        self._streams.pop(stream_id, None)
        self.quic.readers.pop(stream_id, None)
        if (waiter := self._waiters.get(stream_id)) is not None and not waiter.done():
            waiter.set_result(None)
        if self.over is not None:
            return
        if reset is not None:
            self.quic.reset_stream(stream_id, reset)
        if stop is not None and stream_id in self.quic._streams:
            self.quic.stop_stream(stream_id, stop)
        self.flush_soon()

    async def ping(self) -> None:
        """Return when the peer has answered. Raises ConnectionError."""
        if self.over is not None:
            raise ConnectionError(self.over)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._pings[id(waiter)] = waiter
        self.quic.send_ping(id(waiter))
        self.flush_soon()
        try:
            await waiter
        finally:
            self._pings.pop(id(waiter), None)

    def close(self, why: str, *, tell: bool = True) -> None:
        """End the connection; whoever holds its streams is told.

        Args:
            why: for people.
            tell: tell the peer, too.
        """
        if tell and self.over is None:
            self.quic.close(error_code=QuicErrorCode.NO_ERROR, reason_phrase=why[:200])
            self._flush()
        self._end(why)

    def flush_soon(self) -> None:
        """Send what is to be sent, together with whatever else this turn of the loop brings."""
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    # -- what the endpoint tells

    def receive(self, data: bytes, address: tuple[str, int]) -> None:
        """Take a datagram."""
        self.quic.receive_datagram(data, address, self._loop.time())
        self._process()
        self.flush_soon()

    def connect(self, address: tuple[str, int]) -> None:
        """Begin the handshake."""
        self.quic.connect(address, self._loop.time())
        self.flush_soon()

    # -- inside

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self.over is not None:
            return
        for data, address in self.quic.datagrams_to_send(self._loop.time()):
            self._endpoint.send(data, address)
        due = self.quic.get_timer()
        if due != self._timer_at or self._timer is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if due is None else self._loop.call_at(due, self._on_timer)
            self._timer_at = due

    def _on_timer(self) -> None:
        due, self._timer, self._timer_at = self._timer_at, None, None
        if self.over is None:
            self.quic.handle_timer(max(due or 0.0, self._loop.time()))
            self._process()
            self._flush()

    def _process(self) -> None:
        # Nothing of a connection that is over: what an untrusted peer has sent with its certificate is not looked at.
        while self.over is None and (event := self.quic.next_event()) is not None:
            match event:
                case events.StreamDataReceived():
                    if self.up.done():
                        self._holder(event.stream_id).on_data(event.data, event.end_stream)
                case events.StreamReset():
                    self._streams.get(event.stream_id, _NOBODY).on_reset()
                case events.StopSendingReceived():
                    self._streams.get(event.stream_id, _NOBODY).on_unwanted()
                case _:
                    self._of_connection(event)
        for stream_id, waiter in self._waiters.items():
            if not waiter.done() and self.quic.waiting(stream_id) <= _LOW:
                waiter.set_result(None)

    def _of_connection(self, event: events.QuicEvent) -> None:
        match event:
            case events.HandshakeCompleted():
                self._complete()
            case events.ConnectionIdIssued():
                self._endpoint.issued(event.connection_id, self)
            case events.ConnectionIdRetired():
                self._endpoint.retired(event.connection_id)
            case events.PingAcknowledged():
                if (waiter := self._pings.get(event.uid)) is not None and not waiter.done():
                    waiter.set_result(None)
            case events.ConnectionTerminated():
                self._end(event.reason_phrase or f"QUIC error {event.error_code:#x}")

    def _holder(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            ours = self.quic.configuration.is_client != bool(stream_id & 1)
            stream = _NOBODY if ours else self._endpoint.accept(self, stream_id)
            if not ours:
                self._streams[stream_id] = stream
        return stream

    def _complete(self) -> None:
        try:
            self.quic.check_peer()
        except Untrusted as error:
            self.close(str(error))
            return
        if not self.up.done():
            self.up.set_result(None)

    def _end(self, why: str) -> None:
        if self.over is not None:
            return
        self.over = why
        self.gone.set()
        if self._timer is not None:
            self._timer.cancel()
        if not self.up.done():
            self.up.set_exception(ConnectionError(why))
            self.up.exception()  # it may be that nobody waits
        for waiter in (*self._waiters.values(), *self._pings.values()):
            if not waiter.done():
                waiter.set_exception(ConnectionError(why))
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.on_lost(why)
        self._endpoint.ended(self)


class _Nobody:
    """Holds what comes on streams that nobody holds any more."""

    def on_data(self, data: bytes, end: bool) -> None:
        """Drop it."""

    def on_reset(self) -> None:
        """Nothing to do."""

    def on_unwanted(self) -> None:
        """Nothing to do."""

    def on_lost(self, why: str) -> None:
        """Nothing to do."""


_NOBODY = _Nobody()
