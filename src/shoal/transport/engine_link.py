"""HTTP/1.1 to engines from the relay: what its carrier brings, and what goes by tcp while that cannot."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import httptools

from shoal.gateway.engine_tls import client_context
from shoal.gateway.messages import Credentials
from shoal.transport.chunks import Chunks
from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.messages import RelayEngine
from shoal.transport.wire import bodiless, end_to_end, has, lines

_IDLE = 64  # connections kept to each engine
_HANDSHAKE_TIMEOUT = 60.0  # s; see shoal.gateway.engine_tls


class EngineConnection(asyncio.Protocol):
    """A connection to an engine; it carries one call at a time."""

    def __init__(self) -> None:
        self.alive = True
        self.heard = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._chunks: Chunks | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._idle: list[EngineConnection] | None = None
        self._served_by = ""
        self._writable = asyncio.Event()
        self._writable.set()

    async def ask(self, call: Call, served_by: str, host: bytes, idle: list[EngineConnection]) -> Answer:
        """Send a call and return its answer once its head is there; the connection goes to `idle` after its end.

        Raises:
            CarrierError: the engine gave none.
        """
        assert self._transport is not None
        self._call, self._served_by, self._idle = call, served_by, idle
        self._answered = asyncio.get_running_loop().create_future()
        self._headers, self._chunks, self.heard = [], None, False
        headers = [pair for pair in end_to_end(call.headers) if pair[0] not in (b"content-length", b"expect")]
        if not has(headers, b"host"):
            headers.insert(0, (b"host", host))
        if call.body or call.method not in (b"GET", b"HEAD", b"OPTIONS"):
            headers.append((b"content-length", b"%d" % len(call.body)))
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (call.method, call.target, lines(headers))
        self._transport.write(head + call.body)
        try:
            return await self._answered
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close it, whatever is under way."""
        self.alive = False
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._answered is None:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"it answers no HTTP/1.1: {error}")
            self.close()

    def eof_received(self) -> None:
        """Not usable any more; asyncio closes the transport next."""
        self.alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way, unless the end of the connection is the end of the body."""
        self.alive = False
        if self._chunks is not None and exc is None and not self._framed():
            self._chunks.finish()
            self._chunks = None
        self._fail("connection reset" if exc else "connection closed")
        if self._idle is not None and self in self._idle:
            self._idle.remove(self)

    # -- called by the parser

    def on_message_begin(self) -> None:
        """The first byte is there."""
        self.heard = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header line."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Give the answer out."""
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        transport = self._transport
        assert transport is not None
        self._chunks = chunks = Chunks(transport.pause_reading, transport.resume_reading, self.close)
        answer = Answer(
            status=status, headers=end_to_end(self._headers), chunks=chunks, served_by=self._served_by
        )
        assert self._call is not None
        if bodiless(self._call.method, status):
            chunks.finish()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)
        if self._call.method == b"HEAD":  # llhttp would wait for a body
            self.close()

    def on_body(self, data: bytes) -> None:
        """Hand on a piece of the body."""
        if self._chunks is not None:
            self._chunks.feed(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._parser.get_status_code() < 200:
            return
        if self._chunks is not None:
            self._chunks.finish()
        self._chunks, self._answered = None, None
        again = self.alive and self._parser.should_keep_alive()
        if again and self._idle is not None and len(self._idle) < _IDLE:
            self._parser = httptools.HttpResponseParser(self)
            self._idle.append(self)
        else:
            self.close()

    def _framed(self) -> bool:
        return has(self._headers, b"content-length") or has(self._headers, b"transfer-encoding")

    def _fail(self, why: str) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(CarrierError(f"engine {self._served_by}: {why}"))
        if self._chunks is not None:
            self._chunks.finish(CarrierError(f"engine {self._served_by}: {why}"))
            self._chunks = None


class EngineLink:
    """Connections to engines.

    Args:
        authorities: for those with mutual TLS.
        connect_timeout: seconds.
    """

    def __init__(self, authorities: dict[str, Credentials], connect_timeout: float) -> None:
        self._authorities = authorities
        self._connect_timeout = connect_timeout
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._idle: dict[tuple[str, str, int], list[EngineConnection]] = {}

    async def ask(self, engine: RelayEngine, call: Call) -> Answer:
        """Have an engine answer a call.

        Raises:
            CarrierError: it cannot be reached, or gave no answer.
        """
        idle = self._idle.setdefault((engine.id, engine.host, engine.port), [])
        host = b"%b:%d" % (engine.host.encode(), engine.port)
        while idle:
            connection = idle.pop()
            if not connection.alive:
                continue
            try:
                return await connection.ask(call, engine.id, host, idle)
            except CarrierError:
                if connection.heard:
                    raise
                break  # it had been closed meanwhile
        connection = await self._connect(engine)
        return await connection.ask(call, engine.id, host, idle)

    async def open(self, engine: RelayEngine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to an engine as a pair of streams.

        Raises:
            CarrierError: it cannot be reached.
        """
        try:
            async with asyncio.timeout(self._connect_timeout):
                context, name = self._tls(engine)
                return await asyncio.open_connection(
                    engine.host, engine.port, ssl=context, server_hostname=name
                )
        except (OSError, TimeoutError) as error:
            raise _unreachable(engine, error) from error

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            for connection in idle[:]:
                connection.close()

    def tidy(self, engines: tuple[RelayEngine, ...]) -> None:
        """Keep connections to these engines alone."""
        known = {(e.id, e.host, e.port) for e in engines}
        for key in [key for key in self._idle if key not in known]:
            for connection in self._idle.pop(key):
                connection.close()

    async def _connect(self, engine: RelayEngine) -> EngineConnection:
        loop = asyncio.get_running_loop()
        try:
            context, name = self._tls(engine)
            limit = self._connect_timeout if context is None else _HANDSHAKE_TIMEOUT
            async with asyncio.timeout(limit):
                _, connection = await loop.create_connection(
                    EngineConnection, engine.host, engine.port, ssl=context, server_hostname=name
                )
        except (OSError, TimeoutError) as error:
            raise _unreachable(engine, error) from error
        return connection

    def _tls(self, engine: RelayEngine) -> tuple[ssl.SSLContext | None, str | None]:
        if not engine.authority:
            return None, None
        credentials = self._authorities.get(engine.authority)
        if credentials is None:
            raise OSError("its certificate is of an authority that this node does not know")
        context = self._contexts.get(engine.authority)
        if context is None:
            context = client_context(credentials.ca, credentials.certificate, credentials.key)
            self._contexts[engine.authority] = context
        return context, credentials.server_name


def _unreachable(engine: RelayEngine, error: Exception) -> CarrierError:
    why = str(error) or "no connection in time"
    return CarrierError(f"engine {engine.id} cannot be reached: {why}", unsent=True)
