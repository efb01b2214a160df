"""The messages that go through a broker, as msgpack: requests in queues of models, everything else in inboxes.

Each node has an inbox, which only it reads. An execution of a request by a node is an attempt; it has a token that no
other has. The frames of an attempt's answer are numbered from 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.transport.contract import Call

Pairs = tuple[tuple[bytes, bytes], ...]


class FormatError(Exception):
    """What came is no message of this version of Shoal."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """Which execution of a request something is about.

    Attributes:
        id: of the call.
        round: how often the asking end had sent the request before.
        delivery: how often the broker had delivered it before, where it counts that, else 0.
        token: tells it from all others.
        inbox: of the node that executes it.
    """

    id: str
    round: int
    delivery: int
    token: str
    inbox: str

    @property
    def rank(self) -> tuple[int, int]:
        """Of two attempts the one with the higher rank is proof that the other one is over."""
        return (self.round, self.delivery)


class Request(msgspec.Struct, frozen=True, array_like=True, tag="request"):
    """A call on its way to any node that serves its model; see `shoal.transport.contract.Call`."""

    id: str
    round: int
    inbox: str
    engine: str
    model: str
    method: bytes
    target: bytes
    headers: Pairs
    body: bytes
    deadline: float | None
    priority: int

    def call(self) -> Call:
        """Return what it asks."""
        return Call(
            id=self.id,
            engine=self.engine,
            model=self.model,
            method=self.method,
            target=self.target,
            headers=self.headers,
            body=self.body,
            deadline=self.deadline,
            priority=self.priority,
        )


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="taken"):
    """A node begins with it, or with `waits` as soon as it is told `Go`: another one may have it already."""

    attempt: Attempt
    waits: bool = False


class Alive(msgspec.Struct, frozen=True, array_like=True, tag="alive"):
    """A node is still busy with these, for whose answers there is nothing to send yet."""

    attempts: tuple[Attempt, ...]


class Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """Frame 0 of an answer, and the first bytes of its body."""

    attempt: Attempt
    status: int
    headers: Pairs
    served_by: str
    body: bytes
    last: bool


class Piece(msgspec.Struct, frozen=True, array_like=True, tag="piece"):
    """Frame `number` of an answer: more of its body."""

    attempt: Attempt
    number: int
    body: bytes
    last: bool


class Broken(msgspec.Struct, frozen=True, array_like=True, tag="broken"):
    """There is no more of the answer; `why` is for people. `unsent`: no engine has begun with it."""

    attempt: Attempt
    why: str
    unsent: bool


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for the answer: of this attempt, or with `token` "" of any."""

    id: str
    token: str


class Go(msgspec.Struct, frozen=True, array_like=True, tag="go"):
    """The attempt that waits is the one whose answer counts."""

    id: str
    token: str


Frame = Taken | Alive | Head | Piece | Broken | Cancel | Go

_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request)
_frame: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def request_of(call: Call, number: int, inbox: str) -> Request:
    """Return the request for a call, sent for the `number`-th time (from 0), to be answered to `inbox`."""
    return Request(
        id=call.id,
        round=number,
        inbox=inbox,
        engine=call.engine,
        model=call.model,
        method=call.method,
        target=call.target,
        headers=tuple((bytes(name), bytes(value)) for name, value in call.headers),
        body=call.body,
        deadline=call.deadline,
        priority=call.priority,
    )


def encoded(message: Request | Frame) -> bytes:
    """Return the bytes of a message."""
    return _encode(message)


def request_in(data: bytes) -> Request:
    """Return the request in a message.

    Raises:
        FormatError: there is none.
    """
    return _decoded(_request, data)  # type: ignore[no-any-return]


def frame_in(data: bytes) -> Frame:
    """Return the frame in a message.

    Raises:
        FormatError: there is none.
    """
    return _decoded(_frame, data)  # type: ignore[no-any-return]


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise FormatError(f"not a message of this version: {error}") from None
