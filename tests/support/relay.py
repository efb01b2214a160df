"""Relays in the test's own process, and an engine that answers as it is told."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from shoal.gateway.channel import Channel, open_end
from shoal.gateway.messages import Credentials
from shoal.transport.messages import (
    FromRelay,
    RelayCounts,
    RelayEngine,
    RelayNotice,
    RelaySettings,
    RelayState,
    RelayTable,
)
from shoal.transport.relay import Relay

Answerer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NO_CREDENTIALS = Credentials(ca="", certificate="", key="", server_name="")
DEADLINE = 20.0


class RunningRelay:
    """A relay and the node's end of its channel."""

    def __init__(self) -> None:
        self.state = RelayState()
        self.counts = RelayCounts()
        self.troubles: list[str] = []  # as they were told
        self.notices: list[str] = []
        self._news = asyncio.Event()
        self._channel: Channel[FromRelay] | None = None

    async def start(
        self, settings: RelaySettings, engines: list[RelayEngine], udp: socket.socket | None = None
    ) -> asyncio.Task[int]:
        ours, theirs = socket.socketpair()
        running = asyncio.create_task(Relay(theirs, udp).run())
        decoder: msgspec.msgpack.Decoder[FromRelay] = msgspec.msgpack.Decoder(FromRelay)
        self._channel = await open_end(ours, Channel(decoder, self._heard, lambda _: self._news.set()))
        self._channel.send(settings)
        self.know(engines)
        return running

    def know(self, engines: list[RelayEngine]) -> None:
        assert self._channel is not None
        self._channel.send(RelayTable(tuple(engines)))

    async def wait(self, condition: Callable[[RelayState], bool]) -> RelayState:
        async with asyncio.timeout(DEADLINE):
            while not condition(self.state):
                self._news.clear()
                await self._news.wait()
        return self.state

    def stop(self) -> None:
        assert self._channel is not None
        self._channel.close()

    def _heard(self, message: FromRelay) -> None:
        if isinstance(message, RelayNotice):
            self.notices.append(message.text)
        elif isinstance(message, RelayCounts):
            self.counts = message
        else:
            self.state = message
            if message.trouble and message.trouble not in self.troubles:
                self.troubles.append(message.trouble)
        self._news.set()


@contextlib.asynccontextmanager
async def relay(
    engines: list[RelayEngine],
    protocol: str = "loopback",
    udp: socket.socket | None = None,
    **settings: object,
) -> AsyncIterator[RunningRelay]:
    """A relay that listens for all engines with a socket, ended with the block."""
    made = RelaySettings(
        **{"protocol": protocol, "node": "127.0.0.1:1", "cluster": "c", "credentials": NO_CREDENTIALS}
        | settings  # type: ignore[arg-type]
    )
    running = RunningRelay()
    task = await running.start(made, engines, udp)
    try:
        wanted = {e.id for e in engines if e.socket}
        await running.wait(lambda state: wanted <= set(state.listening))
        yield running
    finally:
        running.stop()
        async with asyncio.timeout(DEADLINE):
            assert await task == 0


@contextlib.asynccontextmanager
async def engine(answer: Answerer) -> AsyncIterator[int]:
    """A server on loopback that calls `answer` with each request's bytes; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(v.partition(b":")[2])
                        for v in head.split(b"\r\n")
                        if v.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                await answer(head + await reader.readexactly(length), reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def engine_at(port: int, directory: Path, name: str = "127.0.0.1:1/m-0", **more: object) -> RelayEngine:
    """Return what a relay is told of an engine on loopback."""
    settings = {"local": True, "socket": str(directory / "e.sock")} | more
    return RelayEngine(id=name, model="m", host="127.0.0.1", port=port, **settings)  # type: ignore[arg-type]
