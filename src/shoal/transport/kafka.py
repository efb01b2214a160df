"""Requests between nodes through Kafka: a topic for each model and class of priority, with partitions for all nodes.

Nodes that serve a model are a group; each offset is committed after its answer. What a dead node had is sent again by
the node that asked, as soon as it notices the silence: the group notices later, and what it then delivers is stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

import msgspec

from shoal.transport.contract import CarrierError
from shoal.transport.kafka_link import FAILURES, KafkaLink, reason
from shoal.transport.kafka_rules import Spread
from shoal.transport.queued.broker import AwayError, Ear, QueueSettings
from shoal.transport.queued.frames import Frame, Request, encoded
from shoal.transport.queued.linked import LinkedBroker
from shoal.transport.queued.names import Names, class_of
from shoal.transport.queued.serving import Delivery, Serving


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, tag="dead"):
    """A request that nobody answered.

    Attributes:
        reason: why, for people.
        node: that gave it up.
        time: Unix time of that in s.
        request: what was asked.
    """

    reason: str
    node: str
    time: float
    request: Request


def dead_letter_in(data: bytes) -> DeadLetter:
    """Return the dead letter in a message. Raises `msgspec.DecodeError`."""
    return msgspec.msgpack.decode(data, type=DeadLetter)


class KafkaBroker(LinkedBroker[KafkaLink]):
    """A connection to Kafka that comes back by itself. See `shoal.transport.queued.broker.Broker`.

    Args:
        settings: where it is.
        serving: what this node wants of it.
    """

    counts = False

    def __init__(self, settings: QueueSettings, serving: Serving) -> None:
        super().__init__("Kafka", settings.urls)
        self._settings = settings
        self._serving = serving
        self._names = Names(f"{settings.prefix}.{settings.cluster}")
        self._spread = Spread()
        self._waiting: dict[
            str, str
        ] = {}  # requests sent from here that no node has begun with, and their models

    @property
    def inbox(self) -> str:
        """Name of this node's inbox."""
        return self._names.inbox(self._settings.node, "0")

    async def send(self, request: Request) -> None:
        """Put a request into its topic."""
        most = self._settings.max_queue
        waiting = sum(model == request.model for model in self._waiting.values())
        if request.id not in self._waiting and waiting >= most:
            why = (
                f'{most} requests of this node wait for model "{request.model}", more than that are not taken'
            )
            raise CarrierError(why, unsent=True)
        link = self._present()
        topic = self._names.requests(request.model, class_of(request.priority))
        picked = self._names.inbox(request.engine.rpartition("/")[0], "0")
        partition = self._spread.pick(request.id, topic, link.partitions(topic), picked)
        self._waiting[request.id] = request.model
        await link.produce(topic, partition, encoded(request))

    async def tell(self, inbox: str, frame: Frame) -> bool:
        """Put a frame into an inbox. Kafka does not know who reads it: it always says that somebody does."""
        await self._present().produce(inbox or self._names.cancel, 0, encoded(frame))
        return True

    async def settle(self, delivery: Delivery) -> None:
        """Have its offset committed."""
        if self._link is not None:
            self._link.settle(delivery)

    async def bury(self, request: Request, why: str) -> None:
        """Put a request among the dead letters."""
        letter = DeadLetter(why, self._settings.node, time.time(), request)
        with contextlib.suppress(CarrierError, AwayError):
            await self._present().produce(self._names.dead, 0, msgspec.msgpack.encode(letter))

    def taken(self, id: str, inbox: str) -> None:  # noqa: A002
        """Learn which node reads the partition."""
        self._waiting.pop(id, None)
        self._spread.taken(id, inbox)

    def over(self, id: str) -> None:  # noqa: A002
        """Forget a request."""
        self._waiting.pop(id, None)
        self._spread.over(id)

    async def _connect(self, ear: Ear, models: Collection[str]) -> KafkaLink:
        link = KafkaLink(self._settings, self._names, self.inbox, self._serving, ear)
        try:
            await link.open(models)
        except (*FAILURES, CarrierError) as error:
            await link.close()
            where = ", ".join(self._settings.urls)
            raise CarrierError(f"Kafka cannot be reached ({where}: {reason(error)})", unsent=True) from error
        except BaseException:
            await link.close()
            raise
        return link
