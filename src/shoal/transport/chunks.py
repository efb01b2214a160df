"""A body on its way from a protocol that is told to somebody who asks, with back-pressure."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import AsyncIterator, Callable

from shoal.transport.contract import CarrierError

HIGH, LOW = 256 * 1024, 64 * 1024
"""Bytes that wait for a reader, above which the sender is told to pause, and below which to go on."""


class Chunks(AsyncIterator[bytes]):
    """What comes in by `feed` goes out by iteration.

    Args:
        pause: called when too much waits.
        resume: called when it does no more.
        drop: called once when the reader goes before the end.
    """

    def __init__(
        self, pause: Callable[[], None], resume: Callable[[], None], drop: Callable[[], None]
    ) -> None:
        self._pause = pause
        self._resume = resume
        self._drop: Callable[[], None] | None = drop
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._end: BaseException | None = None
        self._waiter: Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self._drop is None:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def finish(self, error: CarrierError | None = None) -> None:
        """The body has ended, by `error` if it broke off."""
        if self._end is None:
            self._end = error or StopAsyncIteration()
            self._wake()

    @property
    def size(self) -> int:
        """Bytes that wait for the reader."""
        return self._size

    async def __anext__(self) -> bytes:
        """Return the next piece. Raises `CarrierError` where the body broke off."""
        while not self._chunks:
            if self._end is not None:
                self._drop = None
                raise self._end
            self._waiter = get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size <= LOW:
            self._paused = False
            self._resume()
        return data

    async def aclose(self) -> None:
        """Read no more; whoever sends is told so unless all has come."""
        drop, self._drop = self._drop, None
        self._chunks.clear()
        self._size = 0
        if drop is not None and self._end is None:
            self.finish()
            drop()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
