"""One request as this node executes it: asks an engine, and sends the answer back piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shoal.transport.contract import Answer, CarrierError, Handler
from shoal.transport.queued.broker import AwayError, Broker
from shoal.transport.queued.frames import Attempt, Broken, Frame, Head, Pairs, Piece, Taken
from shoal.transport.queued.names import BATCH, class_of
from shoal.transport.queued.serving import Delivery

_PIECE = 512 << 10  # bytes of a frame; Kafka takes messages of 1 MB
_WORD = 5.0  # s that whoever asked has to say that an attempt may begin
_AHEAD = 2 << 20  # bytes read of an answer that the broker does not have yet


class GoneError(Exception):
    """Whoever asked is not there any more."""


class Execution:
    """An attempt at a request.

    Args:
        delivery: the request.
        attempt: what it is called.
        broker: takes the answer.
        handler: asks an engine.

    Attributes:
        settles: the broker may forget the request when this is over.
        may_begin: set when whoever asked has said so; waited for where the delivery is doubtful.
        said: when something was last sent, on the event loop's clock.
    """

    def __init__(self, delivery: Delivery, attempt: Attempt, broker: Broker, handler: Handler) -> None:
        self.delivery = delivery
        self.attempt = attempt
        self.settles = True
        self.said = 0.0
        self.may_begin = asyncio.Event()
        self._broker = broker
        self._handler = handler

    async def run(self) -> None:
        """Answer the request; cancel it where nobody waits for the answer any more."""
        doubtful = self.delivery.doubtful
        taken = asyncio.create_task(
            self._say(Taken(self.attempt, doubtful))
        )  # the engine need not wait for it
        try:
            if not self._broker.counts:
                await taken
            if doubtful and not await self._told_to_begin():
                return  # nobody waits for the answer
            answer = await self._handler(self.delivery.request.call())
            try:
                await taken
                await self._send(answer)
            finally:
                await _closed(answer.chunks)
        except GoneError:
            return
        except AwayError:
            self.settles = False
        except CarrierError as error:
            await self._break(str(error), unsent=error.unsent)
        except Exception as error:  # a fault of ours; whoever asked must not wait for ever
            await self._break(f"the node failed: {error!r}", unsent=False)
            raise
        finally:
            taken.cancel()
            await asyncio.gather(taken, return_exceptions=True)

    async def _told_to_begin(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WORD):
                await self.may_begin.wait()
        return self.may_begin.is_set()

    async def _break(self, why: str, *, unsent: bool) -> None:
        try:
            await self._say(Broken(self.attempt, why, unsent))
        except GoneError:
            return
        except AwayError:
            self.settles = False

    async def _send(self, answer: Answer) -> None:
        """Send an answer in frames. While one is on its way, what comes from the engine gathers for the next."""
        gathered = _Gathered()
        reading = asyncio.create_task(gathered.read(answer.chunks))
        try:
            if class_of(self.delivery.request.priority) == BATCH:
                await gathered.enough()  # nobody watches it come, and one frame cannot break off
            else:
                await asyncio.sleep(0)  # a short body is there already
            headers: Pairs = tuple((bytes(name), bytes(value)) for name, value in answer.headers)
            body, last = gathered.take()
            await self._say(Head(self.attempt, answer.status, headers, answer.served_by, body, last))
            number = 0
            while not last:
                await gathered.news.wait()
                body, last = gathered.take()
                if body or last:
                    number += 1
                    await self._say(Piece(self.attempt, number, body, last))
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _say(self, frame: Frame) -> None:
        self.said = asyncio.get_running_loop().time()
        if not await self._broker.tell(self.delivery.request.inbox, frame):
            raise GoneError


class _Gathered:
    """What has come of a body and is not sent."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._data = bytearray()
        self._over = False
        self._error: CarrierError | None = None

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Take all of it."""
        try:
            async for chunk in chunks:
                self._data += chunk
                self.news.set()
                if len(self._data) > _AHEAD:
                    self._room.clear()
                    await self._room.wait()
        except CarrierError as error:
            self._error = error
        except Exception as error:
            self._error = CarrierError(f"the engine's answer broke off: {error!r}")
        self._over = True
        self.news.set()

    async def enough(self) -> None:
        """Return when all of it, or a whole piece, is there."""
        while not self._over and len(self._data) < _PIECE:
            await self.news.wait()
            if not self._over:
                self.news.clear()

    def take(self) -> tuple[bytes, bool]:
        """Return the next bytes, and whether they are the last.

        Raises:
            CarrierError: the body broke off, and all that came is taken.
        """
        if not self._data and self._error is not None:
            raise self._error
        body = bytes(self._data[:_PIECE])
        del self._data[:_PIECE]
        if len(self._data) <= _AHEAD:
            self._room.set()
        if self._data or self._over:
            self.news.set()
        else:
            self.news.clear()
        return body, self._over and not self._data and self._error is None


async def _closed(chunks: AsyncIterator[bytes]) -> None:
    """Tell an engine that nobody reads on."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
