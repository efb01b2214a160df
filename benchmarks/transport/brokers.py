"""Real message brokers for the protocols that need one, each on a machine of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from lib.broker import Broker
from lib.debian import MissingError
from lib.kafka import Kafka
from lib.rabbitmq import RabbitMQ

Maker = Callable[[Path, str, Sequence[str]], Broker]
"""Makes a broker that is not started, from a directory, its address and what to put in front of its command."""


def rabbitmq(directory: Path, host: str, enter: Sequence[str]) -> Broker:
    """Return Debian's RabbitMQ. Raises `MissingError`."""
    _need("aio_pika", "rabbitmq")
    return RabbitMQ(directory, (5672, 25672, 4369), host, enter)


def kafka(directory: Path, host: str, enter: Sequence[str]) -> Broker:
    """Return Tansu, of those that speak Kafka's protocol the one that notices dead nodes. Raises `MissingError`."""
    _need("confluent_kafka", "kafka")
    return Kafka("tansu", directory, 9092, host, enter)


def _need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise MissingError(f"its client is not installed: pip install 'shoal[{extra}]'")
