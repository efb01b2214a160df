"""The channel between the node process and a gateway worker, or its relay: length-prefixed msgpack over a socket pair.

Both ends use the same class. The node process::

    ours, theirs = socket.socketpair()
    process = Popen([..., "--channel-fd", str(theirs.fileno())], pass_fds=[theirs.fileno(), counters_fd])
    theirs.close()
    channel = await open_end(ours, Channel(Decoder(FromWorker), self.heard, self.lost))
    channel.send(WorkerSettings(...))
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from shoal.gateway.messages import ToWorker

MAX_MESSAGE = 256 * 1024 * 1024
"""Longest message taken, bytes; a longer one means the ends are out of step."""

_LENGTH = 4

Received = TypeVar("Received")


class Channel(asyncio.Protocol, Generic[Received]):
    """One end of a channel.

    Args:
        decoder: of the messages that the other end sends.
        on_message: called with each of them, in order.
        on_close: called once when the channel is gone, with None after an orderly end or else what was wrong.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Received],
        on_message: Callable[[Received], None],
        on_close: Callable[[Exception | None], None],
    ) -> None:
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._on_message = on_message
        self._on_close = on_close
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message; never waits. After the channel has closed it is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        payload = self._encoder.encode(message)
        self._transport.write(len(payload).to_bytes(_LENGTH, "big") + payload)

    def close(self) -> None:
        """Close after everything queued has been sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio calls this)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Take bytes and hand on the messages that are complete (asyncio calls this)."""
        received = self._received
        received += data
        start = 0
        try:
            while len(received) - start >= _LENGTH:
                length = int.from_bytes(received[start : start + _LENGTH], "big")
                if length > MAX_MESSAGE:
                    raise ValueError(f"a message of {length} bytes is longer than {MAX_MESSAGE}")
                end = start + _LENGTH + length
                if len(received) < end:
                    break
                message = self._decoder.decode(received[start + _LENGTH : end])
                start = end
                self._on_message(message)
        except (ValueError, msgspec.MsgspecError) as error:
            self._error = error
            self.close()
            start = len(received)
        del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner (asyncio calls this)."""
        self._transport = None
        self._on_close(exc or self._error)


async def open_end(sock: socket.socket, channel: Channel[Received]) -> Channel[Received]:
    """Return `channel` over its half of a socket pair, which it then owns."""
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=sock)
    return channel


async def open_worker_end(
    sock: socket.socket,
    on_message: Callable[[ToWorker], None],
    on_close: Callable[[Exception | None], None],
) -> Channel[ToWorker]:
    """Return the worker's end over its half of a socket pair, which the channel then owns."""
    decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
    return await open_end(sock, Channel(decoder, on_message, on_close))
