"""The asking end of a stream: a call goes out, its answer comes back."""

from __future__ import annotations

import asyncio
import time

from shoal.transport.chunks import Chunks
from shoal.transport.contract import Answer, Call, CarrierError
from shoal.transport.quic.frames import UNWANTED, AnswerHead, CallHead, HeadError, HeadReader, Hello, encode
from shoal.transport.quic.link import Link


class Asking:
    """A call under way.

    Args:
        link: the connection.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._id = -1
        self._reader = HeadReader()
        self._chunks = Chunks(pause=lambda: None, resume=link.flush_soon, drop=self._unwanted)
        self._head: asyncio.Future[AnswerHead] = asyncio.get_running_loop().create_future()

    async def ask(self, call: Call) -> Answer:
        """Send the call and return its answer.

        Raises:
            CarrierError: there is none.
        """
        self._id = self._link.open(self)
        self._link.quic.readers[self._id] = self._waiting
        within = None if call.deadline is None else call.deadline - time.time()
        head = CallHead(
            id=call.id,
            engine=call.engine,
            model=call.model,
            method=call.method,
            target=call.target,
            headers=list(call.headers),
            within=within,
            priority=call.priority,
        )
        try:
            self._link.write(self._id, encode(head) + call.body, end=True)
            found = await self._head
        except asyncio.CancelledError:
            self._unwanted()
            raise
        if not found.status:
            raise CarrierError(found.error, unsent=found.unsent)
        return Answer(
            status=found.status, headers=found.headers, chunks=self._chunks, served_by=found.served_by
        )

    def on_data(self, data: bytes, end: bool) -> None:
        """See `Stream`."""
        try:
            body = self._reader.feed(data) if data else b""
        except HeadError as error:
            self._fail(f"the peer answers with something else: {error}")
            self._unwanted()
            return
        head = self._reader.head
        if isinstance(head, AnswerHead) and not self._head.done():
            self._head.set_result(head)
        if body:
            self._chunks.feed(body)
        if end:
            self._fail("the peer ended the stream without an answer")
            self._chunks.finish()
            self._link.drop(self._id)

    def on_reset(self) -> None:
        """See `Stream`."""
        self._break("the engine's answer broke off")
        self._link.drop(self._id)

    def on_unwanted(self) -> None:
        """See `Stream`: the peer has answered before it took the whole body."""

    def on_lost(self, why: str) -> None:
        """See `Stream`."""
        self._break(f"the connection was lost: {why}")

    def _break(self, why: str) -> None:
        self._fail(why)
        self._chunks.finish(CarrierError(why))

    def _fail(self, why: str) -> None:
        if not self._head.done():
            self._head.set_exception(CarrierError(why))
            self._head.exception()  # it may be that nobody waits any more

    def _unwanted(self) -> None:
        self._link.drop(self._id, reset=UNWANTED, stop=UNWANTED)

    def _waiting(self) -> int:
        return self._chunks.size


class Greeting:
    """The first stream of a connection: who is who.

    Args:
        link: the connection.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reader = HeadReader()
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()

    async def greet(self, own: Hello) -> Hello:
        """Say who we are and return who the peer is. Raises ConnectionError."""
        stream_id = self._link.open(self)
        self._link.write(stream_id, encode(own), end=True)
        return await self._hello

    def on_data(self, data: bytes, end: bool) -> None:
        """See `Stream`."""
        try:
            self._reader.feed(data)
        except HeadError:
            end = True
        if isinstance(self._reader.head, Hello) and not self._hello.done():
            self._hello.set_result(self._reader.head)
        if end:
            self.on_lost("it did not say who it is")

    def on_reset(self) -> None:
        """See `Stream`."""
        self.on_lost("it did not say who it is")

    def on_unwanted(self) -> None:
        """See `Stream`."""

    def on_lost(self, why: str) -> None:
        """See `Stream`."""
        if not self._hello.done():
            self._hello.set_exception(ConnectionError(why))
            self._hello.exception()
