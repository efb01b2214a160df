"""A connection that has changed its protocol (WebSocket): bytes both ways by tcp, none of them looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from shoal.transport.contract import CarrierError

_PIECE = 64 * 1024


async def tunnel(
    client: asyncio.Transport,
    first: bytes,
    connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]],
) -> None:
    """Pass bytes on until one side closes.

    Args:
        client: the worker's connection.
        first: what has come from it.
        connect: opens one to the engine.
    """
    try:
        reader, writer = await connect()
    except CarrierError:
        client.close()
        return
    loop = asyncio.get_running_loop()
    client_reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(client_reader)
    protocol.connection_made(client)
    client.set_protocol(protocol)
    client_writer = asyncio.StreamWriter(client, protocol, client_reader, loop)
    writer.write(first)
    ways = [
        loop.create_task(_pump(client_reader, writer)),
        loop.create_task(_pump(reader, client_writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        writer.close()
        client.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
