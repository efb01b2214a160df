"""The node process's end of a worker's channel, for tests that are the node process."""

import socket
from collections.abc import Callable

import msgspec

from shoal.gateway.channel import Channel, open_end
from shoal.gateway.messages import FromWorker


async def open_node_end(
    sock: socket.socket,
    on_message: Callable[[FromWorker], None],
    on_close: Callable[[Exception | None], None],
) -> Channel[FromWorker]:
    """Return the node process's end over its half of a socket pair, which the channel then owns."""
    decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
    return await open_end(sock, Channel(decoder, on_message, on_close))
