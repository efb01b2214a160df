"""What a message broker must do for the carrier through queues, and what the carrier is told by it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from shoal.transport.contract import CarrierError
from shoal.transport.queued.frames import Frame, Request
from shoal.transport.queued.serving import Delivery


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is, and what this node asks of it.

    Attributes:
        node: this node, ``host:port``.
        cluster: its cluster.
        nodes: how many nodes there are.
        urls: of the broker's hosts.
        user: name to log in with, None for the broker's default.
        password: for that.
        tls: speak TLS, and only to a broker whose certificate is of `ca`.
        ca: PEM file with the authorities that are trusted, None for those of the system.
        prefix: what names of queues begin with.
        max_queue: requests that may wait for a model.
        redeliveries: how often a request may begin anew because its node died.
        silence: s without a word of a node after which it is taken for dead.
    """

    node: str
    cluster: str = "shoal"
    nodes: int = 1
    urls: tuple[str, ...] = ()
    user: str | None = None
    password: str | None = None
    tls: bool = False
    ca: str | None = None
    prefix: str = "shoal"
    max_queue: int = 10_000
    redeliveries: int = 3
    silence: float = 6.0


class AwayError(CarrierError):
    """The broker is away: whether it has what it was sent is not known."""


class Ear(Protocol):
    """What a broker's connection tells the carrier. None of this waits."""

    def delivered(self, delivery: Delivery) -> None:
        """A request has come."""

    def framed(self, data: bytes) -> None:
        """A message has come into the inbox, or to all nodes."""

    def lost(self, why: str) -> None:
        """The broker is away; deliveries that are not settled go to somebody."""

    def restored(self) -> None:
        """The broker is back."""

    def notice(self, text: str) -> None:
        """People should know this."""


class Broker(Protocol):
    """A connection to a broker, which comes back by itself.

    Attributes:
        counts: it counts how often it delivers a request; else the node that asked must know of each attempt.
    """

    counts: bool

    @property
    def inbox(self) -> str:
        """Name of this node's inbox."""

    async def open(self, ear: Ear, models: Collection[str]) -> None:
        """Connect, and make what is needed for these models.

        Raises:
            CarrierError: it is not possible now.
        """

    async def close(self) -> None:
        """Give everything back; what is not settled goes to other nodes."""

    async def declare(self, models: Collection[str]) -> None:
        """Make the queues of these models where they are not there.

        Raises:
            CarrierError: it is not possible now.
        """

    async def send(self, request: Request) -> None:
        """Put a request into its queue, and return when the broker has it safe.

        Raises:
            AwayError: the broker is away.
            CarrierError: it did not take it.
        """

    async def tell(self, inbox: str, frame: Frame) -> bool:
        """Put a frame into an inbox, "" for those of all nodes; return whether there is such an inbox.

        Raises:
            AwayError: the broker is away.
        """

    async def settle(self, delivery: Delivery) -> None:
        """Let the broker forget a delivery. Nothing happens where it is away."""

    async def bury(self, request: Request, why: str) -> None:
        """Put a request among the dead letters. Nothing happens where the broker is away."""

    def adjust(self) -> None:
        """What this node wants, by its `Serving`, may have changed."""

    def taken(self, id: str, inbox: str) -> None:  # noqa: A002
        """The node of this inbox has begun with a request that was sent from here."""

    def over(self, id: str) -> None:  # noqa: A002
        """A request that was sent from here has its answer, or needs none."""
