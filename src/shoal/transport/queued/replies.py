"""Answers as they come in, for whoever called."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from shoal.transport.contract import Answer, CarrierError
from shoal.transport.queued.frames import Head, Piece

_MOST = 64 << 20  # bytes that wait for a slow reader


class Reply(AsyncIterator[bytes]):
    """The answer to one call, and its body.

    Args:
        closed: called when nobody reads on before the end.
    """

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self._error: CarrierError | None = None
        self._news = asyncio.Event()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def feed(self, frame: Head | Piece) -> bool:
        """Take the next frame; return whether there was room for it."""
        if isinstance(frame, Head) and not self.answer.done():
            answer = Answer(
                status=frame.status, headers=frame.headers, chunks=self, served_by=frame.served_by
            )
            self.answer.set_result(answer)
        if frame.body:
            self._pieces.append(frame.body)
            self._size += len(frame.body)
        self._over = self._over or frame.last
        self._news.set()
        return self._size <= _MOST

    def fail(self, error: CarrierError) -> None:
        """Nothing more comes."""
        if not self.answer.done():
            self.answer.set_exception(error)
        self._error = self._error or error
        self._over = True
        self._news.set()

    async def __anext__(self) -> bytes:
        """Return the next piece of the body."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        return piece

    async def aclose(self) -> None:
        """Read no more; the engine stops."""
        if not self._over:
            self._over = True
            self._closed()
        self._pieces.clear()
