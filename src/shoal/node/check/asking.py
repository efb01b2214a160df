"""Asks another node during a check, and measures the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from shoal.node.check.facts import Facts, ModelFiles
from shoal.node.check.responder import Link, Results
from shoal.node.check.wire import NONCE, Conversation, NotOurs, datagram, nonce_of

SILENT = "something else listens there"
"""What is said of a port that takes connections and does not begin to speak, as HTTP servers do."""

_CONNECT = 3.0  # s
_ANSWER = 10.0  # s
_READING = 3600.0  # s that reading a model may take
_RETRY = 0.5  # s
_PINGS = 10
_UDP_PATIENCE = 1.0  # s
_BYTES = 32 * 1024 * 1024


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What another node has answered.

    Attributes:
        link: the way to it.
        facts: what it says of itself; None if it did not answer.
        offset: seconds by which its clock is ahead of this one's.
        models: files of its models.
    """

    link: Link
    facts: Facts | None = None
    offset: float = 0.0
    models: tuple[ModelFiles, ...] = ()


class Asker:
    """Asks other nodes.

    Args:
        key: of the cluster's checks.
        node: name of this node.
        clock: tells the time, seconds since the epoch.
    """

    def __init__(self, key: bytes, node: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._node = node
        self._clock = clock

    async def ask(self, node: str, host: str, port: int, wait: float) -> Answers:
        """Ask a node everything.

        Args:
            node: its name.
            host: where it is.
            port: its port.
            wait: seconds to wait until it answers at all.
        """
        end = time.monotonic() + wait
        while True:
            try:
                async with self._talk(host, port) as talk:
                    return await self._everything(talk, node, host, port)
            except (NotOurs, OSError, TimeoutError) as error:
                problem = _reason(error)
            if time.monotonic() >= end or "secret" in problem:
                return Answers(link=Link(source=self._node, target=node, problem=problem))
            await asyncio.sleep(_RETRY)

    async def results(self, host: str, port: int) -> Results | None:
        """Return what another node's check has found; None if it does not answer (any more)."""
        try:
            async with self._talk(host, port) as talk, asyncio.timeout(_ANSWER):
                await talk.send({"ask": "results"})
                found: Results = await talk.receive(Results)
                return found
        except (NotOurs, OSError, TimeoutError):
            return None

    @contextlib.asynccontextmanager
    async def _talk(self, host: str, port: int) -> AsyncIterator[Conversation]:
        async with asyncio.timeout(_CONNECT):
            reader, writer = await asyncio.open_connection(host, port)
        try:
            talk = Conversation(self._key, reader, writer, asks=True)
            try:
                async with asyncio.timeout(_CONNECT):
                    await talk.greet()
            except TimeoutError:
                raise NotOurs(SILENT) from None
            yield talk
        finally:
            writer.close()

    async def _everything(self, talk: Conversation, node: str, host: str, port: int) -> Answers:
        async with asyncio.timeout(_ANSWER):
            facts = await _first(talk)
            times, offsets = [], []
            for _ in range(_PINGS):
                sent, begun = self._clock(), time.perf_counter()
                await talk.send({"ask": "time"})
                there = (await talk.receive())["time"]
                took = time.perf_counter() - begun
                times.append(took)
                offsets.append(there - sent - took / 2)
        async with asyncio.timeout(_ANSWER):
            await talk.send({"ask": "take", "bytes": _BYTES})
            await talk.send_bytes(_BYTES)
            seconds = (await talk.receive())["seconds"]
        async with asyncio.timeout(_READING):
            await talk.send({"ask": "models"})
            models = await talk.receive(tuple[ModelFiles, ...])
        udp, lost = await self._datagrams(host, port)
        link = Link(
            source=self._node,
            target=node,
            tcp=1000 * statistics.median(times),
            udp=udp,
            lost=lost,
            mbit=8 * _BYTES / 1e6 / max(seconds, 1e-9),
            engine=await _connects(host, facts.engine_port) if facts.engine_port else None,
        )
        return Answers(link=link, facts=facts, offset=statistics.median(offsets), models=models)

    async def _datagrams(self, host: str, port: int) -> tuple[float | None, float]:
        """Return milliseconds of a question and its answer, None without any answer, and the share of lost ones."""
        loop = asyncio.get_running_loop()
        transport, heard = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._key), remote_addr=(host, port)
        )
        try:
            times: list[float] = []
            for _ in range(_PINGS):
                begun = time.perf_counter()
                answer = heard.expect()
                transport.sendto(datagram(self._key, b"?", heard.nonce))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answer, _UDP_PATIENCE if times else _UDP_PATIENCE / 2)
                    times.append(time.perf_counter() - begun)
                if not times and heard.asked >= _PINGS // 2:
                    break
            return (1000 * statistics.median(times) if times else None), 1 - len(times) / heard.asked
        finally:
            transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, key: bytes) -> None:
        self._key = key
        self._answer: asyncio.Future[None] | None = None
        self.nonce = b""
        self.asked = 0

    def expect(self) -> asyncio.Future[None]:
        """Wait for the answer to the next question."""
        self.nonce, self.asked = os.urandom(NONCE), self.asked + 1
        self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Take an answer."""
        if (
            self._answer is not None
            and not self._answer.done()
            and nonce_of(self._key, b"!", data) == self.nonce
        ):
            self._answer.set_result(None)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there (ICMP): as good as no answer."""


async def _first(talk: Conversation) -> Facts:
    """Ask for the facts. Who does not share the secret has its first question answered by the end."""
    await talk.send({"ask": "facts"})
    try:
        facts: Facts = await talk.receive(Facts)
    except NotOurs as error:
        if str(error) == "it went away":
            raise NotOurs("its cluster.secret or cluster.name differs") from None
        raise
    return facts


async def _connects(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, NotOurs):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer: packets are dropped on the way, or the machine is off"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__
