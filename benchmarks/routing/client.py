"""The load: sends the requests of a workload when they are due and notes when the first token of each came."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence

import httptools
import msgspec

from benchmarks.gateway.load import API_KEY
from benchmarks.routing.engines import Answered
from benchmarks.routing.lag import LagMeter
from benchmarks.routing.workload import Progress, Session, Workload, gateway_of

_HEAD = (
    "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    "Authorization: Bearer {key}\r\nUser-Agent: shoal-bench\r\nContent-Length: {length}\r\n\r\n"
)
_EVENT = re.compile(rb"^data: (?!\[DONE\])(.+?)\r?$", re.MULTILINE)
_KEPT = 4096  # bytes of an error that are looked at


class _Choice(msgspec.Struct):
    delta: dict[str, object] = {}
    text: str = ""
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, object] | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Reply:
    """What came for one request."""

    __slots__ = ("body", "complete", "done", "first", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body: list[bytes] = []
        self.first: float | None = None  # when the first event came
        self.complete = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    """A connection to a gateway: one request at a time."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_status(self, _: bytes) -> None:
        if self.reply is not None:
            self.reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        reply = self.reply
        if reply is None:
            return
        if reply.first is None and (b"data:" in body or reply.status != 200):
            reply.first = time.monotonic()
        reply.body.append(body)

    def on_message_complete(self) -> None:
        reply, self.reply = self.reply, None
        if reply is None:
            return
        reply.status = reply.status or self._parser.get_status_code()
        reply.complete = True
        self.usable = self.usable and self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if not reply.done.done():
            reply.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        reply, self.reply = self.reply, None
        if reply is not None and not reply.done.done():
            reply.done.set_result(None)

    def send(self, reply: Reply, data: bytes) -> None:
        assert self._transport is not None
        self.reply = reply
        self._transport.write(data)

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


def read_reply(reply: Reply) -> tuple[str, int, int, str]:
    """Return the text of a reply, its prompt tokens, those that were cached, and what is wrong with it. Pure."""
    body = b"".join(reply.body)
    if not reply.complete:
        return "", 0, 0, f"the connection ended after {len(body)} bytes" if body else "no answer"
    if reply.status != 200:
        return "", 0, 0, f"status {reply.status}: {body[:_KEPT].decode(errors='replace')[:200]}"
    pieces: list[str] = []
    prompt = cached = 0
    finished = False
    for data in _EVENT.findall(body):
        try:
            chunk = _decode(data)
        except msgspec.DecodeError as error:
            return "", 0, 0, f"an event is no JSON: {error}"
        if chunk.error is not None:
            return "", 0, 0, f"an error in the stream: {chunk.error}"
        for choice in chunk.choices:
            content = choice.delta.get("content")
            pieces.append(content if isinstance(content, str) else choice.text)
            finished = finished or choice.finish_reason is not None
        if chunk.usage is not None:
            prompt = int(str(chunk.usage.get("prompt_tokens", 0)))
            details = chunk.usage.get("prompt_tokens_details")
            cached = int(str(details.get("cached_tokens", 0))) if isinstance(details, dict) else 0
    return "".join(pieces), prompt, cached, "" if finished else "the stream has no end"


class Client:
    """Runs a workload against gateways.

    Args:
        workload: what to send.
        ports: of the gateways, on loopback; each request goes to one of them as `gateway_of` says.
        limit: seconds after which what is open counts as failed.
    """

    def __init__(self, workload: Workload, ports: Sequence[int], limit: float) -> None:
        self._workload = workload
        self._ports = ports
        self._limit = limit
        self._idle: dict[int, deque[_Connection]] = {port: deque() for port in ports}
        self._made: list[_Connection] = []
        self._begin = 0.0
        self.answered: list[Answered] = []
        self.late: list[float] = []

    async def run(self) -> None:
        """Send everything and wait for every answer."""
        meter = LagMeter()
        self._begin = time.monotonic()
        tasks = [asyncio.create_task(self._session(session)) for session in self._workload.sessions]
        try:
            _, pending = await asyncio.wait(tasks, timeout=self._limit)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            meter.stop()
            self.late = meter.take()
            for connection in self._made:
                connection.close()
        self._note_unsent()

    def _note_unsent(self) -> None:
        known = {(one.session, one.turn) for one in self.answered}
        for session in self._workload.sessions:
            for number in range(len(session.turns)):
                if (session.name, number) not in known:
                    text = "not sent: one before it in its session failed"
                    self.answered.append(Answered(session.name, number, 0.0, None, 0.0, error=text))

    async def _session(self, session: Session) -> None:
        progress = Progress(session)
        due = self._begin + session.start
        while (turn := progress.turn) is not None:
            due += turn.wait
            await asyncio.sleep(due - time.monotonic())
            if not await self._ask(progress):
                return  # what follows has no beginning
            due = time.monotonic()

    async def _ask(self, progress: Progress) -> bool:
        session, number = progress.session, progress.done
        path, body = progress.ask()
        head = _HEAD.format(path=path, key=API_KEY, length=len(body)).encode()
        port = self._ports[gateway_of(session.name, number, len(self._ports), self._workload.seed)]
        start = time.monotonic()
        reply = Reply()

        def note(error: str, prompt: int = 0, cached: int = 0) -> None:
            first = None if reply.first is None else reply.first - start
            end = time.monotonic() - start
            since = start - self._begin
            self.answered.append(Answered(session.name, number, since, first, end, prompt, cached, error))

        try:
            connection = await self._connect(port)
        except OSError as error:
            note(f"no connection: {error}")
            return False
        try:
            connection.send(reply, head + body)
            await reply.done
        except asyncio.CancelledError:
            connection.close()
            note("no end within the limit")
            raise
        if connection.usable:
            self._idle[port].append(connection)
        text, prompt, cached, problem = read_reply(reply)
        note(problem, prompt, cached)
        if problem:
            return False
        progress.answered(text)
        return True

    async def _connect(self, port: int) -> _Connection:
        idle = self._idle[port]
        while idle:
            connection = idle.popleft()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        self._made.append(connection)
        return connection
