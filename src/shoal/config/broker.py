"""The message broker that requests may go through."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from shoal.config.base import Entries, Line, Section, distinct
from shoal.config.tls import PemFile

PASSWORD_VARIABLE = "SHOAL_BROKER_PASSWORD"
_PREFIX = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_SCHEMES = ("", "amqp", "amqps")


def _url(value: str) -> str:
    parts = urlsplit(value if "://" in value else f"//{value}")
    try:
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in _SCHEMES or parts.query or parts.fragment:
        raise ValueError(
            "it must be host:port, or for RabbitMQ amqp://host:port/vhost or amqps://host:port/vhost"
        )
    if parts.username or parts.password:
        raise ValueError(
            "it must not hold a name or a password: URLs are shown; give them as `user` and `password`"
        )
    if not re.fullmatch(r"/?[^/]*", parts.path):
        raise ValueError("after the port there may only be the name of a vhost")
    return value


class Broker(Section):
    """Where the broker of `protocol: rabbitmq` or `kafka` is, and how its queues are used."""

    urls: Annotated[
        Entries[Annotated[Line, AfterValidator(_url)]], Field(min_length=1), AfterValidator(distinct)
    ] = Field(
        description="Its hosts, one of which suffices to find the others: host:port, or for RabbitMQ "
        "amqp://host:port/vhost too (amqps for TLS). Port by default 5672 (5671 with TLS) for RabbitMQ.",
    )
    user: Line | None = Field(
        default=None, description="Name to log in with. By default guest for RabbitMQ, none for Kafka."
    )
    password: Line | None = Field(
        default=None,
        repr=False,
        description="Password for that. By default the environment variable SHOAL_BROKER_PASSWORD.",
    )
    tls: bool = Field(
        default=False, description="Whether it is spoken to in TLS; its certificate must name its host."
    )
    ca: PemFile | None = Field(
        default=None,
        description="PEM file with the authorities that its certificate may be of, relative to the configuration file. "
        "By default those that the system trusts.",
    )
    prefix: Annotated[str, Field(pattern=_PREFIX)] = Field(
        default="shoal",
        description="What names of queues begin with, before the cluster's name. Letters, digits, _ . and -.",
    )
    max_queue: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Requests that may wait for a model and class of priority, more go another way. RabbitMQ counts "
        "all; with Kafka each node counts its own.",
    )
    redeliveries: int = Field(
        default=3,
        ge=0,
        le=100,
        description="How often a request may begin anew because the node that had it died; then it is put among the "
        "dead letters.",
    )
