"""The asking end of a relay: gateway workers speak HTTP/1.1 to it over a unix socket, one for each engine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import httptools

from shoal.gateway.claims import patience_of
from shoal.gateway.messages import BACKLOG
from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.tunnel import tunnel
from shoal.transport.wire import bodiless, end_to_end, has, lines

_WRITE_HIGH = 256 * 1024  # bytes that wait for a slow client before its engine is told to pause
_PRIORITY = re.compile(rb"[+-]?[0-9]{1,9}")

Ask = Callable[[Call], Awaitable[Answer]]
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class FrontConnection(asyncio.Protocol):
    """A worker's connection, for one request after the other.

    Args:
        front: the socket it came to.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self._front.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._tunnel(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever asked is gone: so is the need for an answer."""
        self._front.connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The worker reads slowly: so do we."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    # -- called by the parser

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header line."""
        self._headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Have the request answered."""
        if self._parser.should_upgrade():
            return
        method = self._parser.get_method()
        priority = _priority(self._headers)
        call = Call(
            id=self._front.next_id(),
            engine=self._front.engine,
            model=self._front.model,
            method=method,
            target=self._target,
            headers=end_to_end(self._headers),
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            deadline=_deadline(self._headers, math.inf if priority == 0 else self._front.max_wait),
            priority=priority,
        )
        if self._task is not None:  # workers wait for an answer before they ask again
            self.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._answer(call))

    async def _answer(self, call: Call) -> None:
        transport = self._transport
        assert transport is not None
        try:
            answer = await self._front.ask(call)
        except CarrierError:
            transport.abort()  # without an answer: the gateway tries another way
            return
        chunks = answer.chunks
        try:
            await self._write(transport, call, answer)
        except CarrierError:
            transport.abort()  # it broke off, and so must this: the gateway goes on with it elsewhere
        finally:
            self._task = None
            if (close := getattr(chunks, "aclose", None)) is not None:
                await close()

    async def _write(self, transport: asyncio.Transport, call: Call, answer: Answer) -> None:
        headers = list(answer.headers)
        empty = bodiless(call.method, answer.status)
        chunked = not empty and not has(headers, b"content-length")
        if chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        transport.write(b"HTTP/1.1 %d \r\n%b\r\n" % (answer.status, lines(headers)))
        async for chunk in answer.chunks:
            if chunk and not empty:
                transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                if not self._writable.is_set():
                    await self._writable.wait()
        if chunked:
            transport.write(b"0\r\n\r\n")

    def _tunnel(self, rest: bytes) -> None:
        """Let what is no longer HTTP go to the engine by tcp, as it is."""
        transport = self._transport
        assert transport is not None
        method = self._parser.get_method()
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self._target, lines(self._headers))
        self._task = asyncio.get_running_loop().create_task(
            tunnel(transport, head + rest, self._front.connect)
        )


class Front:
    """The unix socket of one engine.

    Args:
        engine: its id.
        model: its model.
        path: of the socket.
        ask: has a call answered.
        connect: connects to the engine by tcp, for what is no single request.
        max_wait: seconds within which a request that is not batch must be begun.
    """

    def __init__(
        self, engine: str, model: str, path: str, ask: Ask, connect: Connect, *, max_wait: float
    ) -> None:
        self.engine = engine
        self.model = model
        self.path = path
        self.ask = ask
        self.connect = connect
        self.max_wait = max_wait
        self.connections: set[FrontConnection] = set()
        self._server: asyncio.Server | None = None
        self._ids = itertools.count()
        self._prefix = os.urandom(8).hex()

    def next_id(self) -> str:
        """Return an id that no other call of the cluster has."""
        return f"{self._prefix}-{next(self._ids)}"

    async def listen(self) -> None:
        """Take connections. Raises OSError."""
        listening = _unix_socket(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: FrontConnection(self), sock=listening, backlog=BACKLOG
        )

    def close(self) -> None:
        """Take no more; what is open is cut."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).unlink()
        for connection in list(self.connections):
            connection.close()


def _unix_socket(path: str) -> socket.socket:
    """Return a socket bound to `path`, in place of what a relay before this one left there; for the owner alone."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # bind takes these permissions, less the umask
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    return listening


def _deadline(headers: list[tuple[bytes, bytes]], most: float) -> float | None:
    """Return the Unix time by which a request must be begun: it may wait as long here as in a gateway."""
    wait = patience_of(next((v for n, v in headers if n == b"prefer"), b""), most)
    return None if wait == math.inf else time.time() + wait


def _priority(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the priority as `Call` has it: 0 for batch, higher goes first, 1 for an ordinary request."""
    value = next((v for n, v in headers if n in (b"x-shoal-priority", b"x-vllm-priority")), b"")
    if value.strip().lower() == b"batch":
        return 0
    if _PRIORITY.fullmatch(value.strip()):
        return max(1, min(9, 1 - int(value)))  # the gateway's lower numbers go first
    return 1
