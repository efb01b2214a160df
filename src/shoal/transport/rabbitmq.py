"""Requests between nodes through RabbitMQ: a quorum queue for each model and class of priority.

Requests are confirmed by a majority of the broker's nodes before they count. Answers go into the asking node's inbox,
a queue that lives as long as its connection: of an answer that breaks off nobody has use.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from urllib.parse import urlsplit, urlunsplit

import aio_pika
from aio_pika.abc import (
    AbstractIncomingMessage,
)
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from shoal.transport.contract import CarrierError
from shoal.transport.queued.broker import AwayError, Ear, QueueSettings
from shoal.transport.queued.frames import Frame, Request, encoded
from shoal.transport.queued.linked import LinkedBroker
from shoal.transport.queued.names import Names, class_of
from shoal.transport.queued.serving import Delivery, Serving
from shoal.transport.rabbitmq_link import FAILURES, RabbitLink

logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what happens is told in our own words


class RabbitBroker(LinkedBroker[RabbitLink]):
    """A connection to RabbitMQ that comes back by itself. See `shoal.transport.queued.broker.Broker`.

    Args:
        settings: where it is.
        serving: what this node wants of it.
    """

    counts = True

    def __init__(self, settings: QueueSettings, serving: Serving) -> None:
        super().__init__("RabbitMQ", [_shown(url) for url in settings.urls])
        self._settings = settings
        self._serving = serving
        self._names = Names(f"{settings.prefix}.{settings.cluster}")
        self._hung: set[str] = set()
        self._inbox = self._names.inbox(settings.node, f"{time.time_ns():x}")

    @property
    def inbox(self) -> str:
        """Name of this node's inbox."""
        return self._inbox

    async def send(self, request: Request) -> None:
        """Put a request into its queue."""
        expiration = None
        if request.deadline is not None:
            expiration = max(0.001, request.deadline - time.time())
        message = aio_pika.Message(
            encoded(request),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            expiration=expiration,
            message_id=request.id,
            headers={"x-shoal-model": request.model},
        )
        queue = self._names.requests(request.model, class_of(request.priority))
        link = self._present()
        try:
            done: object = await link.within(link.exchange.publish(message, queue, mandatory=True))
        except DeliveryError:
            most = self._settings.max_queue
            why = f'{most} requests wait for model "{request.model}", more than that are not taken'
            raise CarrierError(why, unsent=True) from None
        if not isinstance(done, Basic.Ack):  # it came back
            link.end(f"queue {queue} is gone")
            raise AwayError(f"queue {queue} is gone")

    async def tell(self, inbox: str, frame: Frame) -> bool:
        """Put a frame into an inbox."""
        message = aio_pika.Message(encoded(frame))
        link = self._present()
        exchange = link.exchange if inbox else link.everybody
        done: object = await link.within(exchange.publish(message, inbox, mandatory=bool(inbox)))
        return isinstance(done, Basic.Ack)  # else it came back

    async def settle(self, delivery: Delivery) -> None:
        """Acknowledge a delivery."""
        message = delivery.receipt
        assert isinstance(message, AbstractIncomingMessage)
        with contextlib.suppress(*FAILURES):  # of a connection that is gone: it is delivered again anyway
            await message.ack()

    async def bury(self, request: Request, why: str) -> None:
        """Put a request among the dead letters."""
        headers: dict[str, str | int] = {
            "x-shoal-reason": why,
            "x-shoal-model": request.model,
            "x-shoal-node": self._settings.node,
        }
        message = aio_pika.Message(
            encoded(request),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=request.id,
            timestamp=time.time(),
            headers=dict(headers),
        )
        with contextlib.suppress(AwayError, DeliveryError):
            link = self._present()
            await link.within(link.exchange.publish(message, self._names.dead, mandatory=False))

    def taken(self, id: str, inbox: str) -> None:  # noqa: A002
        """Nothing: the broker finds nodes by itself."""

    def over(self, id: str) -> None:  # noqa: A002
        """Nothing."""

    async def _connect(self, ear: Ear, models: Collection[str]) -> RabbitLink:
        tried = []
        for url in self._settings.urls:
            link = RabbitLink(self._settings, self._names, self._inbox, self._serving, ear, hung=self._hung)
            try:
                await link.open(url, models)
            except (*FAILURES, CarrierError) as error:
                await link.close()
                tried.append(f"{_shown(url)}: {str(error) or 'no answer in time'}")
            except BaseException:
                await link.close()
                raise
            else:
                return link
        raise CarrierError(f"RabbitMQ cannot be reached ({'; '.join(tried)})", unsent=True)


def _shown(url: str) -> str:
    """Return a URL without the password that somebody may have written into it."""
    parts = urlsplit(url if "://" in url else f"amqp://{url}")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
