"""The connections to RabbitMQ, until either ends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractQueue,
)
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed, DeliveryError

from shoal.transport.contract import CarrierError
from shoal.transport.queued.broker import AwayError, Ear, QueueSettings
from shoal.transport.queued.frames import FormatError, request_in
from shoal.transport.queued.names import CLASSES, Names
from shoal.transport.queued.serving import Delivery, Serving

T = TypeVar("T")
Arrived = Callable[[AbstractIncomingMessage], Awaitable[Any]]

_HEARTBEAT = 10  # s; a silent connection is given up after two
_CONNECT = 5.0  # s for a connection
_PATIENCE = (
    15.0  # s for an answer of the broker. A quorum queue may hang after a crash: then all begins anew,
)
_PROBE = 3.0  # and of the queues that hang again those are made anew that do not answer in this time, s
_DEAD_MOST = 10_000  # dead letters kept,
_DEAD_AGE = 7 * 86400  # and s they are kept
_SPARE = (
    3  # deliveries above those that nodes count: the broker's own limit is for nodes that die before that
)

FAILURES = (AMQPError, OSError, EOFError, TimeoutError, RuntimeError)
"""What goes wrong with a connection. RuntimeError: aiormq raises it for what is closed."""


class RabbitLink:
    """Two connections: what the broker holds back of one must not hold up the other.

    Args:
        settings: where the broker is.
        names: of the cluster's queues.
        inbox: of this node.
        serving: what this node wants.
        ear: told what comes.
        hung: queues that did not answer the last link; kept up to date here.

    Attributes:
        ended: why this link is to be replaced.
        exchange: takes requests and frames.
        everybody: takes what all nodes are to hear.
    """

    def __init__(
        self,
        settings: QueueSettings,
        names: Names,
        inbox: str,
        serving: Serving,
        ear: Ear,
        *,
        hung: set[str],
    ) -> None:
        self._hung = hung
        self._settings = settings
        self._names = names
        self._inbox = inbox
        self._serving = serving
        self._ear = ear
        self._connections: list[AbstractConnection] = []
        self._pulls: dict[tuple[str, int], Pull] = {}
        self._pulling: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._wanted = asyncio.Event()
        self.exchange: AbstractExchange
        self.everybody: AbstractExchange

    async def open(self, url: str, models: Collection[str]) -> None:
        """Connect, make queues and begin to consume."""
        async with asyncio.timeout(_CONNECT):
            self._out = await self._connection(url)
            self._in = await self._connection(url)
        async with asyncio.timeout(_PATIENCE):
            channel = await self._out.channel(publisher_confirms=True, on_return_raises=False)
            self.exchange = channel.default_exchange
            self.everybody = await channel.declare_exchange(
                self._names.cancel, aio_pika.ExchangeType.FANOUT, durable=True
            )
            arrivals = await self._in.channel(publisher_confirms=False)
            inbox = await arrivals.declare_queue(self._inbox, exclusive=True, auto_delete=True)
            await inbox.bind(self._names.cancel)
            await inbox.consume(self._framed, no_ack=True)
            for either in (channel, arrivals):
                either.close_callbacks.add(self._closed)
        await self.declare(models)
        self._pulling = asyncio.create_task(self._pull())
        self._wanted.set()

    def end(self, why: str) -> None:
        """Have it replaced by another one."""
        if not self.ended.done():
            self.ended.set_result(why)

    async def close(self) -> None:
        """Close the connections, whatever state they are in."""
        self.end("closed")
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        for connection in self._connections:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await connection.close()

    async def within(self, work: Awaitable[T]) -> T:
        """Return what the broker answers.

        Raises:
            AwayError: it does not, or the connection ends.
            DeliveryError: it refuses the message.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                return await work
        except DeliveryError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.end("the connection was closed")  # aiormq cancels what waits for it
            raise AwayError("RabbitMQ is away: the connection was closed") from None
        except FAILURES as error:
            why = str(error) or f"no answer in {_PATIENCE:g} s"
            self.end(why)
            raise AwayError(f"RabbitMQ is away: {why}") from error

    def adjust(self) -> None:
        """What this node wants may have changed."""
        self._wanted.set()

    async def declare(self, models: Collection[str]) -> None:
        """Make the queues of these models, and that of the dead letters."""
        try:
            await self._declare(models)
        except FAILURES as error:
            why = str(error) or "no answer in time"
            raise CarrierError(f"the queues of {', '.join(models)} cannot be made: {why}") from error

    async def _declare(self, models: Collection[str]) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._queue(
                self._names.dead,
                {
                    "x-queue-type": "quorum",
                    "x-max-length": _DEAD_MOST,
                    "x-message-ttl": _DEAD_AGE * 1000,
                },
            )
        for model in models:
            for level in CLASSES:
                async with asyncio.timeout(_PATIENCE):
                    await self._queue(self._names.requests(model, level), self._arguments())

    def _arguments(self) -> Mapping[str, str | int]:
        return {
            "x-queue-type": "quorum",
            "x-max-length": self._settings.max_queue,
            "x-overflow": "reject-publish",
            "x-delivery-limit": self._settings.redeliveries + _SPARE,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._names.dead,
        }

    async def _queue(self, name: str, arguments: Mapping[str, str | int]) -> None:
        channel = await self._in.channel(publisher_confirms=False)
        try:
            await channel.declare_queue(name, durable=True, arguments=dict(arguments))
        except ChannelPreconditionFailed:
            # It is there, made with other limits; nobody but its owner may decide to throw away what is in it.
            self._ear.notice(
                f"queue {name} was made with other settings than the configuration has, and keeps them until somebody "
                "deletes it (rabbitmqctl delete_queue)"
            )
            return
        await channel.close()

    async def _connection(self, url: str) -> AbstractConnection:
        settings = self._settings
        parts = urlsplit(url if "://" in url else f"amqp://{url}")
        secure = settings.tls or parts.scheme == "amqps"
        connection = await aio_pika.connect(
            host=parts.hostname or "",
            port=parts.port or (5671 if secure else 5672),
            login=settings.user or "guest",
            password=settings.password or "guest",
            virtualhost=parts.path.removeprefix("/") or "/",
            ssl=secure,
            ssl_context=ssl.create_default_context(cafile=settings.ca) if secure else None,
            timeout=_CONNECT,
            heartbeat=_HEARTBEAT,
            client_properties={"connection_name": f"shoal {settings.node}"},
        )
        self._connections.append(connection)
        connection.close_callbacks.add(self._closed)
        return connection

    def _closed(self, _: object, error: BaseException | None) -> None:
        self.end(str(error or "the connection was closed"))

    async def _framed(self, message: AbstractIncomingMessage) -> None:
        if not self.ended.done():
            self._ear.framed(message.body)

    # -- pulling requests

    async def _pull(self) -> None:
        """Consume from the queues that this node has room for, those of higher classes first."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                for model in self._serving.models():
                    for level in reversed(CLASSES):
                        await self._consume(model, level)
            except FAILURES as error:
                self.end(str(error) or "a queue does not answer")
                return

    async def _consume(self, model: str, level: int) -> None:
        key, queue = (model, level), self._names.requests(model, level)
        if key not in self._pulls:
            self._pulls[key] = self._pull_of(queue)
        prefetch = self._serving.slots(model) if self._serving.wants(model, level) else 0
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._pulls[key].want(prefetch)
        except TimeoutError:
            if queue in self._hung:
                await self._renew()
            self._hung.add(queue)
            raise
        if prefetch:
            self._hung.discard(queue)

    def _pull_of(self, queue: str) -> Pull:
        return Pull(queue, self._in, self._arrived, lambda: self.end(f"the broker took queue {queue} away"))

    async def _renew(self) -> None:
        """Throw away the queues that do not answer, for the next link to make them anew.

        RabbitMQ 3.10 may bring a quorum queue back from a crash that was declared within 2 s before it in a state that
        it never leaves. Nothing is lost with it: nodes send what they wait for again when they have a new link.
        """
        for model in self._serving.models():
            for level in CLASSES:
                queue = self._names.requests(model, level)
                try:  # anew: another node may have done it
                    async with asyncio.timeout(_PROBE):
                        await self._pull_of(queue).want(1)
                    continue
                except TimeoutError:
                    self._ear.notice(
                        f"queue {queue} has not answered since the broker is back; it is made anew, and what waited in "
                        "it is sent again"
                    )
                channel = await self._in.channel(publisher_confirms=False)
                async with asyncio.timeout(_PATIENCE):
                    await channel.queue_delete(queue)
        self._hung.clear()

    async def _arrived(self, message: AbstractIncomingMessage) -> None:
        if self.ended.done():
            return
        try:
            request = request_in(message.body)
        except FormatError as error:
            self._ear.notice(f"a request is not understood: {error}")
            await message.reject(requeue=False)  # to the dead letters
            return
        count = message.headers.get("x-delivery-count", 0)
        self._ear.delivered(Delivery(request, message, count if isinstance(count, int) else 0))


class Pull:
    """The consumer of one queue. What it may hold unacknowledged is what this node can do at the same time.

    Args:
        queue: its name.
        connection: to the broker.
        arrived: takes a message.
        taken_away: called when the broker ends the consumer, since the queue was deleted.
    """

    def __init__(
        self, queue: str, connection: AbstractConnection, arrived: Arrived, taken_away: Callable[[], None]
    ) -> None:
        self._name = queue
        self._connection = connection
        self._arrived = arrived
        self._taken_away = taken_away
        self._channel: AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._tag: str | None = None
        self._prefetch = 0

    async def want(self, prefetch: int) -> None:
        """Consume with this many at most, 0 for not at all."""
        if self._tag is not None and prefetch == self._prefetch:
            return
        if self._tag is None and prefetch == 0:
            return
        if self._tag is not None and self._queue is not None:
            tag, self._tag = self._tag, None
            await self._queue.cancel(tag)
        if prefetch == 0:
            return
        if self._channel is None or self._queue is None:
            self._channel = await self._connection.channel(publisher_confirms=False)
            self._queue = await self._channel.get_queue(self._name, ensure=False)
            underlay = await self._channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: self._taken_away())
        await self._channel.set_qos(prefetch_count=prefetch)
        self._prefetch = prefetch
        self._tag = await self._queue.consume(self._arrived)
