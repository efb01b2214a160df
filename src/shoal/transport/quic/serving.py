"""The serving end of a stream: a call comes in, the node's handler answers it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shoal.transport.contract import Answer, Call, CarrierError, Handler
from shoal.transport.quic.frames import BROKEN, AnswerHead, CallHead, HeadError, HeadReader, Hello, encode
from shoal.transport.quic.link import Link


class Served:
    """A stream that a peer has opened.

    Args:
        link: the connection.
        stream_id: of the stream.
        handler: answers calls.
        greeted: called with who the peer is; returns who we are.
    """

    def __init__(
        self, link: Link, stream_id: int, handler: Handler, greeted: Callable[[Hello], Hello]
    ) -> None:
        self._link = link
        self._id = stream_id
        self._handler = handler
        self._greeted = greeted
        self._reader = HeadReader()
        self._body: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def on_data(self, data: bytes, end: bool) -> None:
        """See `Stream`."""
        try:
            body = self._reader.feed(data) if data else b""
        except HeadError:
            self._link.drop(self._id, reset=BROKEN, stop=BROKEN)
            return
        if body:
            self._body.append(body)
        if not end:
            return
        head = self._reader.head
        if isinstance(head, Hello):
            self._link.write(self._id, encode(self._greeted(head)), end=True)
            self._link.drop(self._id)
        elif isinstance(head, CallHead):
            self._task = asyncio.get_running_loop().create_task(self._serve(head))
        else:
            self._link.drop(self._id, reset=BROKEN)

    def on_reset(self) -> None:
        """See `Stream`: it was given up before it was whole, or is not wanted any more."""
        self._give_up()

    def on_unwanted(self) -> None:
        """See `Stream`."""
        self._give_up()

    def on_lost(self, why: str) -> None:
        """See `Stream`."""
        if self._task is not None:
            self._task.cancel()

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._link.drop(self._id, reset=BROKEN)

    async def _serve(self, head: CallHead) -> None:
        call = Call(
            id=head.id,
            engine=head.engine,
            model=head.model,
            method=head.method,
            target=head.target,
            headers=head.headers,
            body=b"".join(self._body),
            deadline=None if head.within is None else time.time() + head.within,
            priority=head.priority,
        )
        self._body = []
        link, stream_id = self._link, self._id
        try:
            answer = await self._handler(call)
        except CarrierError as error:
            link.write(stream_id, encode(AnswerHead(0, error=str(error), unsent=error.unsent)), end=True)
            link.drop(stream_id)
            return
        try:
            await self._pass_on(answer)
        except CarrierError:
            link.drop(stream_id, reset=BROKEN)
        except ConnectionError:
            pass  # the link is gone: `on_lost` has been told
        else:
            link.drop(stream_id)
        finally:
            if (close := getattr(answer.chunks, "aclose", None)) is not None:
                await close()

    async def _pass_on(self, answer: Answer) -> None:
        link, stream_id = self._link, self._id
        link.write(
            stream_id,
            encode(AnswerHead(answer.status, list(answer.headers), answer.served_by)),
        )
        async for chunk in answer.chunks:
            link.write(stream_id, chunk)
            await link.drain(stream_id)
        link.write(stream_id, b"", end=True)
