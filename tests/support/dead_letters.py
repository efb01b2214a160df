"""What a broker keeps of requests that nobody answered."""

import time
from typing import Any

from shoal.transport.queued.frames import request_in
from shoal.transport.queued.names import Names


async def dead_letters(protocol: str, url: str, prefix: str, count: int) -> dict[str, str]:
    """Return why requests ended there, by their ids, once there are `count` of them."""
    names = Names(f"{prefix}.shoal")
    return await (_rabbitmq if protocol == "rabbitmq" else _kafka)(url, names.dead, count)


async def _rabbitmq(url: str, queue: str, count: int) -> dict[str, str]:
    import aio_pika  # noqa: PLC0415

    found: dict[str, str] = {}
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        messages = await channel.get_queue(queue)
        async with messages.iterator(timeout=30) as arriving:
            async for message in arriving:
                deaths: Any = message.headers.get("x-death")
                reason = message.headers.get("x-shoal-reason") or deaths[0]["reason"]
                found[request_in(message.body).id] = str(reason)
                await message.ack()
                if len(found) >= count:
                    return found
    return found


async def _kafka(url: str, topic: str, count: int) -> dict[str, str]:
    from confluent_kafka import TopicPartition  # noqa: PLC0415
    from confluent_kafka.aio import AIOConsumer  # noqa: PLC0415

    from shoal.transport.kafka import dead_letter_in  # noqa: PLC0415

    consumer = AIOConsumer({"bootstrap.servers": url, "group.id": "test", "enable.auto.commit": False})
    await consumer.assign([TopicPartition(topic, 0, 0)])
    found: dict[str, str] = {}
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        message = await consumer.poll(0.5)
        if message is not None and message.error() is None:
            letter = dead_letter_in(message.value())
            found[letter.request.id] = letter.reason
    await consumer.close()
    return found
