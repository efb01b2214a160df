"""Bounded load on one gateway, from within its machine; prints what it saw as JSON.

``python -m benchmarks.transport.load HOST PORT --streams 16 --seconds 15`` keeps 16 streams open, ``--requests 32``
asks short questions one after the other with 32 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from typing import cast

import httptools
import uvloop

_SILENCE = 30.0  # s without a byte after which a client gives up
_CONNECT = 5.0


class Client(asyncio.Protocol):
    """A connection that carries one request after the other.

    Attributes:
        times: when each event of the present answer came; those that came together have the same.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.status = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._over: asyncio.Future[str] | None = None
        self._now = 0.0
        self._last = b""

    async def ask(self, request: bytes) -> str:
        """Send a request and return what went wrong with its answer, "" for nothing."""
        assert self._transport is not None
        self.times, self.status, self._last = [], 0, b""
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(_SILENCE):
                problem = await self._over
        except TimeoutError:
            return f"nothing whole within {_SILENCE:g} s"
        return problem or ("" if self.status == 200 else f"status {self.status}: {self._last[:200]!r}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        self._now = time.monotonic()
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._end("connection lost")

    def on_headers_complete(self) -> None:
        """Note the status."""
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Note events."""
        self._last = data
        self.times += [self._now] * data.count(b"data: ")

    def on_message_complete(self) -> None:
        """Be done."""
        self._parser = httptools.HttpResponseParser(self)
        self._end("the stream broke off" if b'"error"' in self._last else "")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _end(self, problem: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(problem)


class Load:
    """Clients of one kind.

    Args:
        host: of the gateway.
        port: of it.
        seconds: for which questions are begun.
        tokens: of each answer; more than one are streamed.
    """

    def __init__(self, host: str, port: int, seconds: float, tokens: int) -> None:
        self._address = host, port
        self._until = time.monotonic() + seconds
        self._tokens = tokens
        self.first: list[float] = []
        self.gaps: list[float] = []
        self.failures: list[str] = []
        self.answers = self.events = 0

    async def run(self, clients: int) -> None:
        """Ask with so many clients."""
        await asyncio.gather(*(self._client(number) for number in range(clients)))

    async def _client(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        client: Client | None = None
        await asyncio.sleep(number * 0.013)  # not in step
        while time.monotonic() < self._until:
            turn += 1
            if client is None:
                try:
                    async with asyncio.timeout(_CONNECT):
                        _, client = await loop.create_connection(Client, *self._address)
                except (OSError, TimeoutError) as error:
                    self.failures.append(f"connect: {error}")
                    await asyncio.sleep(0.2)
                    continue
            began = time.monotonic()
            problem = await client.ask(self._request(f"{number} {turn}"))
            self._note(client, began, problem)
            if problem:
                client.close()
                client = None
                await asyncio.sleep(0.1)
        if client is not None:
            client.close()

    def _note(self, client: Client, began: float, problem: str) -> None:
        if problem:
            self.failures.append(problem)
            return
        self.answers += 1
        times = client.times
        self.events += len(times)
        self.first.append((times[0] if times else time.monotonic()) - began)
        self.gaps += [late - early for early, late in itertools.pairwise(times[:-1])]  # less [DONE]

    def _request(self, prompt: str) -> bytes:
        body: dict[str, object] = {
            "model": "sim-model",
            "prompt": prompt,
            "max_tokens": self._tokens,
            "ignore_eos": True,
        }
        if self._tokens > 1:
            body["stream"] = True
        content = json.dumps(body).encode()
        host, port = self._address
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content


def main() -> None:
    """Ask, and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=100)
    found = parser.parse_args()
    tokens = found.tokens if found.streams else 1

    async def run() -> Load:
        load = Load(found.host, found.port, found.seconds, tokens)
        await load.run(found.streams or found.requests)
        return load

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(run())
    seen = {name: getattr(load, name) for name in ("first", "gaps", "failures", "answers", "events")}
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
