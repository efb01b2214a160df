"""Bounded streaming load: so many clients, each asking one question after the other and judging every answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence

from benchmarks.chaos.client import ask, head
from benchmarks.chaos.questions import question
from benchmarks.chaos.results import Request
from benchmarks.chaos.verify import Outcome, judge

_PAUSE_AFTER_FAILURE = 0.25  # seconds; a client that is refused does not come back at once


class Load:
    """Keeps `clients` requests open from ``start`` to ``stop``.

    Args:
        addresses: host and port of each way in.
        clients: open requests.
        seed: of the questions; another one asks other things.
        spread: seconds over which clients begin.
        silence: seconds without a byte after which a client gives up.
        strict: see `judge`.
        chat_only: see `question`.
        api_key: sent along, where a router wants one.

    Attributes:
        requests: all of them, in the order they began.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        clients: int,
        seed: str,
        *,
        spread: float = 3.0,
        silence: float = 20.0,
        strict: bool = True,
        chat_only: bool = False,
        api_key: str = "",
    ) -> None:
        self.requests: list[Request] = []
        self._addresses = addresses
        self._clients = clients
        self._seed = seed
        self._spread = spread
        self._silence = silence
        self._strict = strict
        self._chat_only = chat_only
        self._api_key = api_key
        self._numbers = itertools.count()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(self._clients)]

    async def stop(self) -> None:
        """Ask nothing more; return when the last answer has ended."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def abort(self) -> None:
        """End at once; what is open is not judged."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def warm(self) -> None:
        """Return when every client had time to be in the middle of an answer.

        Raises:
            Exception: a client's own error.
        """
        end = time.monotonic() + self._spread + 1
        while time.monotonic() < end:
            await asyncio.sleep(0.1)
            self._raise()

    async def settle(self, deadline: float = 90.0) -> None:
        """Return when every request that is open now has ended."""
        waiting = self.open()
        end = time.monotonic() + deadline
        while time.monotonic() < end and any(r.ended is None for r in waiting):
            await asyncio.sleep(0.05)
            self._raise()

    def open(self) -> list[Request]:
        """Return the requests that have not ended."""
        return [r for r in self.requests if r.ended is None]

    def _raise(self) -> None:
        for task in self._tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error

    async def _client(self, index: int) -> None:
        entry = index % len(self._addresses)
        await asyncio.sleep(random.random() * self._spread)
        while not self._stopping:
            began = time.monotonic()
            request = Request(next(self._numbers), entry, began)
            self.requests.append(request)
            await self._ask(request)
            if request.outcome is not Outcome.GOOD:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    async def _ask(self, request: Request) -> None:
        asked = question(request.number, self._seed, chat_only=self._chat_only)
        request.streamed = asked.streamed
        host, port = self._addresses[request.entry]
        data = head(asked, f"{host}:{port}", self._api_key)
        exchange = await ask((host, port), data, request, self._silence)
        request.ended = time.monotonic()
        verdict = judge(asked, exchange.status, b"".join(exchange.body), exchange.cut, strict=self._strict)
        request.outcome, request.reason = verdict.outcome, verdict.reason
