"""Answers other nodes' checks for as long as this node's own one runs, on the ports it will have when it serves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shoal.node.check.facts import Facts, ModelFiles
from shoal.node.check.wire import Conversation, NotOurs, datagram, key_of, nonce_of

_PATIENCE = 10.0  # s until the next question of a connection
_MOST_BYTES = 64 * 1024 * 1024  # that a node takes to measure bandwidth


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """How one node reaches another one.

    Attributes:
        source: the node that asked.
        target: the other one.
        tcp: milliseconds of a question and its answer over TCP; None if there was none.
        udp: the same over UDP.
        lost: share of the datagrams without an answer.
        mbit: megabits per second over TCP; None if not measured.
        engine: the port for engines could be connected to; None if not tried.
        problem: why TCP did not work, "" if it did.
    """

    source: str
    target: str
    tcp: float | None = None
    udp: float | None = None
    lost: float = 0.0
    mbit: float | None = None
    engine: bool | None = None
    problem: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node's check has got.

    Attributes:
        done: it has tried all others.
        links: how it reaches them.
    """

    done: bool = False
    links: tuple[Link, ...] = ()


class Responder(asyncio.DatagramProtocol):
    """The answering side of a check.

    Args:
        cluster: name of the cluster.
        secret: its secret.
        facts: what this node tells of itself.
        models: returns the files of its models, when they have been read.
        clock: tells the time, seconds since the epoch.
        deaf: does not answer datagrams (for tests: a firewall that drops UDP).

    Attributes:
        results: what this node's own check has found so far.
    """

    def __init__(
        self,
        cluster: str,
        secret: str | None,
        facts: Facts,
        models: Callable[[], Awaitable[tuple[ModelFiles, ...]]],
        *,
        clock: Callable[[], float] = time.time,
        deaf: bool = False,
    ) -> None:
        self._key = key_of(cluster, secret)
        self._facts = facts
        self._models = models
        self._clock = clock
        self._deaf = deaf
        self._servers: list[asyncio.Server] = []
        self._transport: asyncio.DatagramTransport | None = None
        self.results = Results()

    async def start(self, host: str, port: int, engine_port: int = 0) -> None:
        """Listen.

        Args:
            host: address.
            port: of TCP and UDP.
            engine_port: of TCP, where nothing is said; 0 for none.

        Raises:
            OSError: a port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._servers.append(await asyncio.start_server(self._serve, host, port))
            if engine_port:
                self._servers.append(await asyncio.start_server(_say_nothing, host, engine_port))
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        if self._transport is not None:
            self._transport.close()

    # -- UDP

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer a question."""
        nonce = nonce_of(self._key, b"?", data)
        if nonce is not None and not self._deaf and self._transport is not None:
            self._transport.sendto(datagram(self._key, b"!", nonce), addr)

    # -- TCP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Conversation(self._key, reader, writer, asks=False)
        try:
            async with asyncio.timeout(_PATIENCE):
                await talk.greet()
            while True:
                async with asyncio.timeout(_PATIENCE):
                    question = await talk.receive()
                await self._answer(talk, question)
        except (NotOurs, TimeoutError, OSError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, talk: Conversation, question: dict[str, Any]) -> None:
        match question.get("ask"):
            case "time":
                await talk.send({"time": self._clock()})
            case "facts":
                await talk.send(self._facts)
            case "models":
                await talk.send(await self._models())
            case "results":
                await talk.send(self.results)
            case "take":
                count = min(int(question["bytes"]), _MOST_BYTES)
                begun = time.monotonic()
                async with asyncio.timeout(_PATIENCE):
                    await talk.take_bytes(count)
                await talk.send({"seconds": time.monotonic() - begun})
            case _:
                raise NotOurs("it asks something unknown")


async def _say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
