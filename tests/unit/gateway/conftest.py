"""A stage for gateway tests: a gateway in this process, scripted engines, clients on raw sockets.

Tests are ``async def test_...(stage)``; the hook below runs them on uvloop, with a deadline, and clears the stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import uvloop

from shoal.gateway import coalescing, counters
from shoal.gateway.client import accept
from shoal.gateway.context import Gateway
from shoal.gateway.counters import InFlight, SharedMetrics
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.messages import EngineFault, KeyUsage, TableUpdate, WorkerNotice, WorkerSettings
from shoal.routing.table import EngineTarget, ModelRoute, RoutingTable
from support.channel import open_node_end
from support.thorough import THOROUGH

DEADLINE = 20.0  # s for one test


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    mishaps: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: mishaps.append(context))
        try:
            async with asyncio.timeout(DEADLINE):
                await pyfuncitem.obj(**arguments)
        finally:
            for argument in arguments.values():
                if isinstance(argument, Stage):
                    await argument.clear()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert mishaps == [], "exceptions that nobody caught"
    return True


@dataclass
class Seen:
    """A request as an engine received it."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    def header(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


@dataclass
class Reply:
    """A response as a client received it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes
    complete: bool = True

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI-style error, checked for its form."""
        body = self.json
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert self.header("content-type") == "application/json"
        return body["error"]


def reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection with RST."""
    if not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

Behaviour = Callable[["EngineConnection", Seen], Awaitable[None]]


@dataclass
class EngineConnection:
    """A connection as the engine has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: bool = False  # by the gateway
    requests: int = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        reset(self.writer)

    async def wait_closed(self) -> None:
        """Wait until the gateway closes the connection."""
        while await self.reader.read(65536):
            pass
        self.closed = True


def answer(data: bytes) -> Behaviour:
    """An engine that answers every request with `data`."""

    async def behave(connection: EngineConnection, _: Seen) -> None:
        await connection.send(data)

    return behave


def answer_then_close(data: bytes) -> Behaviour:
    """An engine that sends `data` and closes the connection."""

    async def behave(connection: EngineConnection, _: Seen) -> None:
        await connection.send(data)
        connection.writer.close()

    return behave


class Engine:
    """A scripted engine."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.seen: list[Seen] = []
        self.connections: list[EngineConnection] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, unix: str | None = None) -> None:
        if unix is not None:
            self._server = await asyncio.start_unix_server(self._serve, unix)
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on, and reset those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.connections:
            connection.reset()
        self.connections.clear()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = EngineConnection(reader, writer)
        self.connections.append(connection)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                match = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
                body = await reader.readexactly(int(match[1])) if match else b""
                seen = Seen(head, body)
                self.seen.append(seen)
                connection.requests += 1
                await self.behave(connection, seen)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last is uvloop's "closed"
            connection.closed = True
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


class Client:
    """A client on a raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, method: str = "GET") -> Reply:
        """Read one response to its end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        assert lines[0].startswith("HTTP/1.1 ")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])
        ]
        names = dict(headers)
        raw = head
        complete = True
        if method == "HEAD" or status in (204, 304) or status < 200:
            body = b""
        elif "transfer-encoding" in names:
            assert names["transfer-encoding"] == "chunked"
            assert "content-length" not in names
            body, chunks, complete = await self._chunks()
            raw += chunks
        elif "content-length" in names:
            try:
                body = await self.reader.readexactly(int(names["content-length"]))
            except asyncio.IncompleteReadError as error:
                body, complete = error.partial, False
            raw += body
        else:
            body = await self.reader.read()
            raw += body
        return Reply(status, headers, body, raw, complete)

    async def _chunks(self) -> tuple[bytes, bytes, bool]:
        body, raw = bytearray(), bytearray()
        try:
            while True:
                line = await self.reader.readuntil(b"\r\n")
                raw += line
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    while line != b"\r\n":
                        line = await self.reader.readuntil(b"\r\n")
                        raw += line
                    return bytes(body), bytes(raw), True
                chunk = await self.reader.readexactly(size + 2)
                assert chunk.endswith(b"\r\n")
                raw += chunk
                body += chunk[:-2]
        except asyncio.IncompleteReadError as error:
            return bytes(body), bytes(raw + error.partial), False

    async def request(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply(data.split(b" ", 1)[0].decode("latin-1"))

    async def at_end(self) -> bool:
        """Whether the gateway has closed the connection, with nothing more on it."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer)


@dataclass
class Stage:
    """Engines, a gateway, clients. Everything started here ends with the test."""

    control: str
    faults: list[EngineFault] = field(default_factory=list)
    usage: list[KeyUsage] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    gateway: Gateway = None  # type: ignore[assignment]
    in_flight: InFlight = None  # type: ignore[assignment]
    metrics: SharedMetrics = None  # type: ignore[assignment]
    port: int = 0
    _server: asyncio.Server | None = None
    _versions: Any = field(default_factory=lambda: itertools.count(1))

    OK = OK
    answer = staticmethod(answer)
    answer_then_close = staticmethod(answer_then_close)

    async def engine(self, behave: Behaviour | bytes = OK) -> Engine:
        """Start an engine; given bytes, it answers every request with them."""
        engine = Engine(answer(behave) if isinstance(behave, bytes) else behave)
        await engine.start()
        self.engines.append(engine)
        return engine

    async def dead_engine(self) -> Engine:
        """Return an engine whose port refuses connections."""
        engine = await self.engine()
        await engine.stop()
        return engine

    def target(self, engine: Engine, index: int, **changes: Any) -> EngineTarget:
        return EngineTarget(**{
            "id": f"n{index}/m", "slot": index, "host": "127.0.0.1", "port": engine.port, **changes
        })  # fmt: skip

    def route(
        self, *engines: Engine, model: str = "m", policy: str = "round_robin", **changes: Any
    ) -> ModelRoute:
        """Return a route to engines; `changes` go to their targets."""
        targets = tuple(self.target(engine, self.engines.index(engine), **changes) for engine in engines)
        return ModelRoute(model=model, policy=policy, engines=targets)

    def table(self, routes: Mapping[str, ModelRoute], **changes: Any) -> RoutingTable:
        return RoutingTable(version=next(self._versions), routes=dict(routes), **changes)

    async def open(self, *engines: Engine, table: RoutingTable | None = None, **settings: Any) -> None:
        """Start the gateway, with one model ``m`` on `engines` unless there is a table."""
        self.settings = WorkerSettings(**{
            "index": 0, "workers": 2, "node": "n", "host": "127.0.0.1", "port": 1,
            "control_socket": self.control, **settings,
        })  # fmt: skip
        fd = counters.create(2, size(2))
        self.key_cells = KeyCells(fd, 2)
        self.in_flight = InFlight(fd, 2)
        self.metrics = SharedMetrics(fd, 2)
        self.gateway = Gateway(
            self.settings, self.in_flight, self.metrics, self._heard, key_cells=self.key_cells
        )
        self.gateway.apply(table or self.table({"m": self.route(*engines)}))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: accept(self.gateway), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._tick()

    def _heard(self, message: Any) -> None:
        (self.usage if isinstance(message, KeyUsage) else self.faults).append(message)

    def used(self) -> dict[tuple[str, str], tuple[int, int, int, int]]:
        """Return what keys have used since the last time: requests, prompt and completion tokens, refused."""
        self.gateway.access.flush()
        total: dict[tuple[str, str], tuple[int, int, int, int]] = {}
        for row in (row for message in self.usage for row in message.rows):
            counts = (row.requests, row.prompt_tokens, row.completion_tokens, row.limited)
            before = total.get((row.key, row.model), (0, 0, 0, 0))
            total[row.key, row.model] = tuple(a + b for a, b in zip(before, counts, strict=True))
        self.usage.clear()
        return total

    def _tick(self) -> None:
        self.gateway.tick()
        self._timer = asyncio.get_running_loop().call_later(self.gateway.tick_interval, self._tick)

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24))
        self.clients.append(client)
        return client

    async def request(self, data: bytes) -> Reply:
        """Send a request on a connection of its own and return the answer."""
        client = await self.client()
        try:
            return await client.request(data)
        finally:
            client.close()

    def post(
        self, body: bytes = b'{"model":"m"}', path: str = "/v1/chat/completions", extra: str = ""
    ) -> bytes:
        """Return the bytes of a POST."""
        head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n{extra}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def get(self, path: str, extra: str = "", method: str = "GET") -> bytes:
        return f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n{extra}\r\n".encode()

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait until `condition` holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "condition not met in time"
            await asyncio.sleep(0.002)

    async def until_still(self, value: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait until `value` has not changed for a tenth of a second."""
        last, since = value(), asyncio.get_running_loop().time()

        def still() -> bool:
            nonlocal last, since
            if value() != last:
                last, since = value(), asyncio.get_running_loop().time()
            return asyncio.get_running_loop().time() - since > 0.1

        await self.until(still, seconds)

    def open_requests(self) -> int:
        return sum(self.in_flight.row(0).tolist())

    async def clear(self) -> None:
        for client in self.clients:
            client.reset()
        if self._server is not None:
            self._timer.cancel()
            self._server.close()
            for connection in list(self.gateway.connections):
                connection.abort()
            self.gateway.apply(self.table({}))
        for engine in self.engines:
            await engine.stop()
        await asyncio.sleep(0)


@pytest.fixture
def stage(tmp_path: Any) -> Stage:
    """An empty stage."""
    return Stage(str(tmp_path / "control.sock"))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the gateway in this process read streams together, however few there are and however little flows."""
    monkeypatch.setattr(coalescing, "MANY", 1)
    monkeypatch.setattr(coalescing, "WORTH", 0.0)


@pytest.fixture(params=["alone", "together"] if THOROUGH else ["together"])
def reading(request: pytest.FixtureRequest) -> str:
    """Run a test in both ways, and tell which it is: streams are read by their transports, or together.

    In a quick run only together, which takes the other way as well once a stream ends or much comes at once.
    """
    if request.param == "together":
        request.getfixturevalue("together")
    return str(request.param)


class Worker:
    """A real worker process with one model ``m``, in place of the gateway in this process."""

    def __init__(self, stage) -> None:
        self.stage = stage
        self.fd = counters.create(1)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = stage.port = self.listening.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.messages: list[object] = []

    async def start(self, *engines, **settings) -> None:
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), self.fd, self.listening.fileno())
        names = ("--channel-fd", "--counters-fd", "--listen-fd")
        pairs = (text for name, fd in zip(names, fds, strict=True) for text in (name, str(fd)))
        self.process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "shoal.gateway", *pairs], pass_fds=fds
        )
        theirs.close()
        self.channel = await open_node_end(ours, self.messages.append, lambda _: None)
        self.channel.send(
            WorkerSettings(**{
                "index": 0, "workers": 1, "node": "n", "host": "127.0.0.1", "port": 1,
                "control_socket": self.stage.control, **settings,
            })
        )  # fmt: skip
        self.channel.send(TableUpdate(self.stage.table({"m": self.stage.route(*engines)})))
        await self.stage.until(lambda: self.messages, 15)  # ready, or failed

    def notices(self) -> list[str]:
        return [m.text for m in self.messages if isinstance(m, WorkerNotice)]

    def memory(self) -> int:
        """Return the resident memory, bytes."""
        assert self.process is not None
        return psutil.Process(self.process.pid).memory_info().rss

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.fd)
        self.listening.close()


@pytest.fixture
def worker(stage) -> Iterator[Worker]:
    worker = Worker(stage)
    yield worker
    worker.end()
