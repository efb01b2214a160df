"""The carrier through a broker, as a relay has it."""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from shoal.transport.contract import Answer, Call, Carrier, CarrierError
from shoal.transport.queued.broker import Broker, QueueSettings
from shoal.transport.queued.carrier import QueuedCarrier
from shoal.transport.queued.serving import Serving

if TYPE_CHECKING:
    from shoal.transport.carriers import Surroundings

log = logging.getLogger(__name__)

_UNKNOWN_CAPACITY = 32  # requests that an engine is expected to take at once when it does not say
_PACKAGES = {"rabbitmq": "aio-pika", "kafka": "confluent-kafka"}
_CLASSES = {"rabbitmq": "RabbitBroker", "kafka": "KafkaBroker"}


class Missing:
    """In place of a carrier whose client is not installed. It never starts, and says why."""

    def __init__(self, protocol: str) -> None:
        self.trouble: str | None = (
            f"`protocol: {protocol}` needs the package {_PACKAGES[protocol]}: pip install 'shoal[{protocol}]'"
        )

    async def start(self) -> None:
        """Raise CarrierError."""
        raise CarrierError(self.trouble or "", unsent=True)

    async def close(self) -> None:
        """There is nothing to close."""

    async def call(self, call: Call) -> Answer:
        """Raise CarrierError."""
        raise CarrierError(self.trouble or "", unsent=True)


def queued(around: Surroundings) -> Carrier:
    """Return the carrier for ``rabbitmq`` or ``kafka``, not yet started."""
    protocol = around.settings.protocol
    try:
        module = importlib.import_module(f"shoal.transport.{protocol}")
    except ImportError as error:
        log.warning("%s", error)
        return Missing(protocol)
    make: Callable[[QueueSettings, Serving], Broker] = getattr(module, _CLASSES[protocol])
    return QueuedCarrier(
        settings_of(around),
        make,
        handler=around.handler,
        slots=lambda: slots(around),
        models=lambda: {engine.model for engine in around.directory.all() if engine.model},
        notice=lambda text: log.warning("%s", text),
    )


def settings_of(around: Surroundings) -> QueueSettings:
    """Return what the configuration says of the broker."""
    settings = around.settings
    own = {"node": settings.node, "cluster": settings.cluster, "nodes": settings.nodes}
    return msgspec.convert(settings.options | own, QueueSettings)


def slots(around: Surroundings) -> Mapping[str, int]:
    """Return how many requests the engines of this node have room for, by model."""
    found: Counter[str] = Counter()
    for engine in around.directory.local():
        if engine.model:
            found[engine.model] += engine.capacity or _UNKNOWN_CAPACITY
    return found
