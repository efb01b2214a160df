"""The clients of Kafka that a node has, until the broker is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.aio import AIOConsumer, AIOProducer
from confluent_kafka.cimpl import NewPartitions, NewTopic

from shoal.transport.contract import CarrierError
from shoal.transport.kafka_pull import Pull
from shoal.transport.queued.broker import AwayError, Ear, QueueSettings
from shoal.transport.queued.names import CLASSES, Names
from shoal.transport.queued.serving import Delivery, Serving

if TYPE_CHECKING:
    # Its public name is not declared for type checkers.
    from confluent_kafka.admin._topic import TopicDescription

FAILURES = (KafkaException, OSError, TimeoutError, RuntimeError)
"""What goes wrong with the broker. RuntimeError: a client that is closed."""

_PATIENCE = 10.0  # s for an answer of the broker
_LOOK = 2.0  # s between two looks at whether it is there
_FEWEST_PARTITIONS = 8
_REPLICAS = 3  # of each partition where there are so many brokers: acks=all then means a majority
_INBOX_AGE, _REQUEST_AGE, _DEAD_AGE = 600, 2 * 86400, 7 * 86400  # s that messages are kept
_AT_ONCE = 500  # messages of the inbox


class KafkaLink:
    """A producer, a reader of the inbox and one of requests for each model.

    Args:
        settings: where the broker is.
        names: of topics.
        inbox: of this node.
        serving: what this node wants.
        ear: told what comes.

    Attributes:
        ended: why this link is to be replaced.
    """

    def __init__(self, settings: QueueSettings, names: Names, inbox: str, serving: Serving, ear: Ear) -> None:
        self._settings = settings
        self._names = names
        self._inbox = inbox
        self._serving = serving
        self._ear = ear
        self._partitions: dict[str, int] = {}
        self._ids: dict[str, str] = {}  # of topics; one that is made anew has another one
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="kafka")
        self._producer: AIOProducer | None = None
        self._reader: AIOConsumer | None = None
        self._admin: AdminClient | None = None
        self._pulls: dict[str, Pull] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._doubt = asyncio.Event()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self, models: Collection[str]) -> None:
        """Connect, make topics and begin to read."""
        self._admin = AdminClient(self._client())
        await self._declare(models)
        confirmed = {
            "acks": "all",
            "linger.ms": 0,
            "message.timeout.ms": int(_PATIENCE * 1000),
            "message.max.bytes": 100_000_000,  # what the broker takes is its own business
            "error_cb": self._troubled,
        }
        # Each message goes out at once: what could be put together has been, by whoever sends it.
        self._producer = AIOProducer(
            self._client() | confirmed, executor=self._threads, batch_size=1, buffer_timeout=0
        )
        reading = {"group.id": self._inbox, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self._reader = AIOConsumer(self._client() | reading, executor=self._threads)
        places = [TopicPartition(topic, 0) for topic in (self._inbox, self._names.cancel)]
        for place in places:  # only what comes from now on: nobody waits for what came before
            _, place.offset = await self._reader.get_watermark_offsets(place, _PATIENCE)
        await self._reader.assign(places)
        for work in (self._report(), self._read(), self._look()):
            self._tasks.append(asyncio.create_task(work))
        self.adjust()

    def end(self, why: str) -> None:
        """Have it replaced by another one."""
        if not self.ended.done():
            self.ended.set_result(why)

    async def close(self) -> None:
        """Close the clients; those that wait for a broker that is away are left to themselves."""
        self.end("closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = [pull.close() for pull in self._pulls.values()]
        if self._reader is not None:
            closing.append(self._reader.close())
        if self._producer is not None:
            closing.append(self._end_producer(self._producer))
        if closing:
            tasks = [asyncio.create_task(_quietly(each)) for each in closing]
            await asyncio.wait(tasks, timeout=3)
        self._threads.shutdown(wait=False)

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return self._partitions.get(topic, 1)

    async def produce(self, topic: str, partition: int, value: bytes) -> None:
        """Return when all replicas have a message.

        Raises:
            AwayError: the broker does not answer.
            CarrierError: it did not take it.
        """
        if self._producer is None or self.ended.done():
            raise AwayError("Kafka is away")
        try:
            async with asyncio.timeout(_PATIENCE + 2):
                await (await self._producer.produce(topic, value=value, partition=partition))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise AwayError("Kafka is away: the connection was closed") from None
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                why = f"{len(value)} bytes are more than the broker takes (message.max.bytes of the topic)"
                raise CarrierError(why, unsent=True) from error
            self._doubt.set()
            raise AwayError(f"Kafka is away: {reason(error)}") from error
        except (*FAILURES, BufferError) as error:
            self._doubt.set()
            raise AwayError(f"Kafka is away: {reason(error)}") from error

    async def declare(self, models: Collection[str]) -> None:
        """Make the topics of these models, and those that all need."""
        await self._declare(models)
        self.adjust()

    def adjust(self) -> None:
        """Read the requests of models that this node serves, and no others."""
        for model in self._serving.models():
            topics = {self._names.requests(model, level): level for level in CLASSES}
            known = self._ids.keys() >= topics.keys()
            if known and self._serving.slots(model) and model not in self._pulls and not self.ended.done():
                self._pulls[model] = Pull(
                    self._client(),
                    # Topics that are made anew are read by a new group. The old one is not only wrong about offsets:
                    # with Tansu, a member that joins and leaves at once stays its leader for ever.
                    self._names.group(model, self._ids[min(topics)]),
                    model,
                    topics,
                    serving=self._serving,
                    ear=self._ear,
                    end=self.end,
                )
            elif not self._serving.slots(model) and (pull := self._pulls.pop(model, None)) is not None:
                self._tasks.append(asyncio.create_task(_quietly(pull.close())))
        for pull in self._pulls.values():
            pull.adjust()

    def settle(self, delivery: Delivery) -> None:
        """Have the offset of a delivery committed."""
        if (pull := self._pulls.get(delivery.request.model)) is not None:
            pull.settle(delivery)

    # -- inside

    def _client(self) -> dict[str, Any]:
        settings = self._settings
        secure, known = settings.tls, settings.user is not None
        protocol = ("SASL_" if known else "") + ("SSL" if secure else "PLAINTEXT")
        found: dict[str, Any] = {
            "bootstrap.servers": ",".join(settings.urls),
            "client.id": f"shoal {settings.node}",
            "security.protocol": protocol,
            "socket.keepalive.enable": True,
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1000,
            "log_level": 0,  # what happens is told in our own words
        }
        if known:
            found |= {"sasl.mechanism": "PLAIN" if secure else "SCRAM-SHA-256"}
            found |= {"sasl.username": settings.user, "sasl.password": settings.password or ""}
        if settings.ca is not None:
            found["ssl.ca.location"] = settings.ca
        return found

    async def _declare(self, models: Collection[str]) -> None:
        served = max(_FEWEST_PARTITIONS, 2 * self._settings.nodes)
        wanted = {self._inbox: (1, _INBOX_AGE), self._names.cancel: (1, _INBOX_AGE)}
        wanted[self._names.dead] = (1, _DEAD_AGE)
        for model in models:
            for level in CLASSES:
                wanted[self._names.requests(model, level)] = (served, _REQUEST_AGE)
        found = await self._described(wanted)
        made = {name: how for name, how in wanted.items() if name not in found}
        # Brokers that make topics by themselves do so for whoever sends first, with as many partitions as they like.
        grown = [
            NewPartitions(name, count)
            for name, (count, _) in wanted.items()
            if name in found and len(found[name].partitions) < count
        ]
        if made or grown:
            await self._make(made, grown)
            found = await self._all_described(wanted)
        for name, topic in found.items():
            self._partitions[name] = len(topic.partitions)
            self._ids.setdefault(name, str(topic.topic_id))

    async def _brokers(self) -> int:
        """Return how many brokers there are; raises where there is none."""
        assert self._admin is not None
        nodes = self._admin.describe_cluster(request_timeout=_PATIENCE / 2)
        return len((await asyncio.wrap_future(nodes)).nodes)

    async def _described(self, topics: Collection[str]) -> dict[str, TopicDescription]:
        """Return those of these topics that there are; raises where there is no broker. Makes none, as clients may."""
        assert self._admin is not None
        asked = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=_PATIENCE / 2)
        found = {}
        for name, future in asked.items():
            try:
                found[name] = await asyncio.wrap_future(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    async def _all_described(self, topics: Collection[str]) -> dict[str, TopicDescription]:
        """Return all of these topics, which have been made; brokers learn of them one after the other."""
        end = asyncio.get_running_loop().time() + _PATIENCE
        while len(found := await self._described(topics)) < len(topics):
            if asyncio.get_running_loop().time() > end:
                missing = ", ".join(sorted(set(topics) - found.keys()))
                raise CarrierError(f"topics were made and are not there: {missing}")
            await asyncio.sleep(0.1)
        return found

    async def _make(self, wanted: Mapping[str, tuple[int, int]], partitions: list[NewPartitions]) -> None:
        """Make topics, of which the partitions and the age of messages in s are given, and partitions of others."""
        assert self._admin is not None
        replicas = min(_REPLICAS, max(1, await self._brokers())) if wanted else 0
        topics = [
            NewTopic(name, count, replicas, config={"retention.ms": str(age * 1000)})
            for name, (count, age) in wanted.items()
        ]
        times = {"operation_timeout": _PATIENCE, "request_timeout": _PATIENCE}
        made = self._admin.create_topics(topics, **times) if topics else {}
        for name, future in made.items():
            try:
                await asyncio.wrap_future(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise CarrierError(f"topic {name} cannot be made: {reason(error)}") from error
        grown = self._admin.create_partitions(partitions, **times) if partitions else {}
        for future in grown.values():
            with contextlib.suppress(KafkaException):  # fewer will do: fewer nodes can have work at a time
                await asyncio.wrap_future(future)

    async def _end_producer(self, producer: AIOProducer) -> None:
        await producer.purge()
        await producer.close()

    async def _report(self) -> None:
        """Have confirmations handed over as they come."""
        assert self._producer is not None
        while True:
            await self._producer.poll(0.5)

    async def _read(self) -> None:
        """Read the inbox."""
        assert self._reader is not None
        try:
            while True:
                message = await self._reader.poll(0.5)
                while message is not None:
                    messages = [message, *await self._reader.consume(_AT_ONCE, 0)]
                    for each in messages:
                        if each.error() is None:
                            self._ear.framed(each.value())
                    message = None if len(messages) < _AT_ONCE else await self._reader.poll(0)
        except FAILURES as error:
            self.end(reason(error))

    async def _look(self) -> None:
        """See whether the broker is there; a client of Kafka waits for one that is not, without a word."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._doubt.wait()
            self._doubt.clear()
            known = dict(self._ids)
            try:
                found = await self._described(known)
            except FAILURES as error:
                self.end(reason(error))
                return
            # A broker that has lost its data may be back before anybody has noticed, its topics made anew by the first
            # who sent to them. All that clients know of these is wrong then, and they go on as if nothing were.
            if any(name not in found or str(found[name].topic_id) != id_ for name, id_ in known.items()):
                self.end("its topics are gone" if len(found) < len(known) else "its topics were made anew")
                return

    async def _troubled(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
            self._doubt.set()


def reason(error: BaseException) -> str:
    """Return what an error says, for people."""
    first = error.args[0] if error.args else None
    return first.str() if isinstance(first, KafkaError) else str(error) or "no answer in time"


async def _quietly(work: Any) -> None:
    with contextlib.suppress(*FAILURES):
        await work
