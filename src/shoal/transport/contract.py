"""What every carrier of requests between nodes is: the same few words for QUIC, RabbitMQ and Kafka.

A carrier has two ends. The asking end is given a `Call` and returns the `Answer` of some engine; the serving end hands
the calls that arrive to a `Handler`, which asks an engine of its own node. Whoever carries repeats nothing by itself
once a byte of an answer has come: going on with a broken stream is the gateway's work (gateway/relay.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]


class CarrierError(Exception):
    """The request did not reach an engine, or its answer broke off; ``str(error)`` says why, for people.

    Args:
        why: what happened.
        unsent: no engine can have begun with it, so it may go another way.
    """

    def __init__(self, why: str, *, unsent: bool = False) -> None:
        super().__init__(why)
        self.unsent = unsent


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to an engine.

    Attributes:
        id: tells it from all others of the cluster.
        engine: the engine that the gateway has picked, as the view names it (``node/engine``); a queue may give the
            request to another one of the same model.
        model: the model's id, "" where the request names none.
        method: of HTTP, upper case.
        target: path and query.
        headers: without those that belong to one connection (``Connection``, ``Transfer-Encoding``...).
        body: whole.
        deadline: Unix time in seconds by which an engine must have begun with it, since nobody waits for longer; None
            where there is no limit. An answer that is under way is not bound by it.
        priority: as the gateway has it: 0 is batch, higher goes first.
    """

    id: str
    engine: str
    model: str
    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    deadline: float | None = None
    priority: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an engine answers.

    Attributes:
        status: of HTTP.
        headers: without those that belong to one connection.
        chunks: the body as it comes. Raises `CarrierError` where it breaks off. To close it early (``aclose``) tells
            the serving end that nobody reads on, so that the engine stops.
        served_by: the engine that answers (``node/engine``).
    """

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]
    served_by: str = field(default="")


Handler = Callable[[Call], Awaitable[Answer]]
"""Asks an engine of this node; raises `CarrierError` where none can take the call."""


class Carrier(Protocol):
    """Carries calls to other nodes and gives those that arrive to this node's handler."""

    async def start(self) -> None:
        """Connect and begin to serve; returns once calls can be made.

        Raises:
            CarrierError: it is not possible now; says what was tried. The carrier may be started again.
        """

    async def close(self) -> None:
        """Let calls under way end (bounded), then give everything back."""

    async def call(self, call: Call) -> Answer:
        """Return the answer as soon as its head is there.

        Raises:
            CarrierError: it did not reach an engine.
        """

    @property
    def trouble(self) -> str | None:
        """Why calls cannot be carried just now, None where they can: meanwhile requests go by tcp."""
