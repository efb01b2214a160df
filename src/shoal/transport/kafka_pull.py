"""Reads the requests of one model from Kafka, as this node has room for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException, Message, TopicPartition
from confluent_kafka.aio import AIOConsumer

from shoal.transport.kafka_rules import Offsets, Place
from shoal.transport.queued.broker import Ear
from shoal.transport.queued.frames import FormatError, request_in
from shoal.transport.queued.serving import Delivery, Serving

_TURN = 0.1  # s; what changes meanwhile is done after that
_APART = 5.0  # s that clocks of nodes and brokers may be apart
_GROUP = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    # The shortest that brokers allow by default: so long what a dead node had not begun waits.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 1500,
    "fetch.wait.max.ms": 100,
}


class Pull:
    """A member of the group of nodes that serve a model.

    Args:
        client: how to reach the broker.
        group: its name.
        model: the model.
        topics: those of the model, each with its class of priority.
        serving: says for what there is room.
        ear: told of deliveries.
        end: called where nothing can be read any more.
    """

    def __init__(
        self,
        client: dict[str, Any],
        group: str,
        model: str,
        topics: dict[str, int],
        *,
        serving: Serving,
        ear: Ear,
        end: Callable[[str], None],
    ) -> None:
        self._model = model
        self._topics = topics
        self._serving = serving
        self._ear = ear
        self._end = end
        self._consumer = AIOConsumer(client | _GROUP | {"group.id": group}, max_workers=3)
        self._offsets: dict[Place, Offsets] = {}
        self._commits: dict[Place, int] = {}
        self._paused: set[Place] | None = None
        self._since = time.time()  # when this node got the partitions that it has
        self._closing = False
        self._task = asyncio.create_task(self._run())

    def adjust(self) -> None:
        """What there is room for may have changed: seen at the next turn."""

    def settle(self, delivery: Delivery) -> None:
        """Note that a delivery is done."""
        receipt: Any = delivery.receipt
        place, offset, offsets = receipt
        if self._offsets.get(place) is offsets:  # else somebody else has the partition by now
            self._done(place, offset)

    async def close(self) -> None:
        """Leave the group."""
        self._closing = True
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.close()

    async def _run(self) -> None:
        try:
            await self._consumer.subscribe(
                list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._closing:
                await self._turn()
            await self._commit(wait=True)
        except (KafkaException, RuntimeError) as error:
            self._end(str(error))

    async def _turn(self) -> None:
        await self._pause()
        message = await self._consumer.poll(_TURN)
        if message is not None:
            self._arrived(message)
            room = max((self._serving.room(self._model, level) for level in self._topics.values()), default=0)
            if room > 0:
                for each in await self._consumer.consume(room, 0):
                    self._arrived(each)
        await self._commit(wait=False)

    def _arrived(self, message: Message) -> None:
        value = message.value()
        if message.error() is not None or value is None:
            return
        place, offset = (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
        offsets = self._offsets.setdefault(place, Offsets())
        offsets.take(offset)
        try:
            request = request_in(value)
        except FormatError as error:
            self._ear.notice(f"a request is not understood: {error}")
            self._done(place, offset)
            return
        _, sent = message.timestamp()  # ms since the epoch; 0 where the broker does not say
        doubtful = sent / 1000 < self._since + _APART  # who had the partition before may have begun with it
        self._ear.delivered(Delivery(request, (place, offset, offsets), doubtful=doubtful))

    def _done(self, place: Place, offset: int) -> None:
        if (upto := self._offsets[place].done(offset)) is not None:
            self._commits[place] = upto

    async def _pause(self) -> None:
        """Read only the topics of classes that there is room for."""
        full = {
            place for place in self._offsets if not self._serving.room(self._model, self._topics[place[0]])
        }
        before, self._paused = self._paused, full
        free = self._offsets.keys() - full
        if new := full if before is None else full - before:
            await self._consumer.pause(_partitions(new))
        if over := free if before is None else free & before:
            await self._consumer.resume(_partitions(over))

    async def _commit(self, *, wait: bool) -> None:
        if not self._commits:
            return
        commits, self._commits = self._commits, {}
        offsets = [TopicPartition(*place, upto) for place, upto in commits.items()]
        await self._consumer.commit(offsets=offsets, asynchronous=not wait)

    # -- the group changes; called while `poll` waits

    async def _assigned(self, _: AIOConsumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self._offsets[each.topic, each.partition] = Offsets()
        self._since = time.time()
        self._paused = None  # a partition that was paused and comes here again still is

    async def _revoked(self, _: AIOConsumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self._offsets.pop((each.topic, each.partition), None)
            self._commits.pop((each.topic, each.partition), None)


def _partitions(places: Iterable[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]
