"""How nodes talk to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from shoal.config.base import Seconds, Section
from shoal.config.broker import Broker

THROUGH_BROKERS = ("rabbitmq", "kafka")
"""Protocols that need `communication.broker`."""


class Communication(Section):
    """How nodes talk to each other."""

    protocol: Literal["tcp", "udp", "rabbitmq", "kafka"] = Field(
        default="tcp",
        description="How requests reach engines (docs/communication.md). tcp: straight to the engine. udp: to other "
        "nodes over QUIC, for links that lose packets. rabbitmq, kafka: through queues of a message broker, from which "
        "nodes that have room take them.",
    )
    timeout: Seconds = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds without progress after which a request to another node has failed: no byte came, and the "
        "engine answers no probes either. More than gateway.connect_timeout.",
    )
    broker: Broker | None = Field(
        default=None, description="The message broker, with protocol rabbitmq or kafka."
    )

    def problems(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield what does not go together: what is wrong, and the setting below this section to show it at."""
        needs = self.protocol in THROUGH_BROKERS
        if needs and self.broker is None:
            example = "amqp://host:5672" if self.protocol == "rabbitmq" else "host:9092"
            yield (
                f"`communication.protocol` is {self.protocol}, so `communication.broker` must say where the broker is: "
                f'`broker: {{urls: ["{example}"]}}`',
                ("protocol",),
            )
        if self.broker is None:
            return
        if not needs:
            yield (
                f"`communication.broker` has no effect with `protocol: {self.protocol}`; write `protocol: rabbitmq` or "
                "`protocol: kafka`, or remove it",
                ("broker",),
            )
        for number, url in enumerate(self.broker.urls):
            if self.protocol == "kafka" and "/" in url:
                yield (
                    f"`communication.broker.urls[{number}]` is {url}; Kafka's brokers are given as host:port",
                    ("broker", "urls"),
                )
        if self.broker.password is not None and self.broker.user is None:
            yield (
                "`communication.broker.password` has no `user` that it would be of",
                ("broker", "password"),
            )
