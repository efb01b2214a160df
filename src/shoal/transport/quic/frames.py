"""What stands at the head of a stream: 4 bytes of length (big-endian), msgpack; the body is the rest of the stream.

The asking end sends `CallHead` and body, the serving end `AnswerHead` and body. A connection's first stream carries
`Hello` both ways. Less than HTTP/3 has, and on purpose: no QPACK, whose table would tie streams together, and no frames
around chunks, which would cost processor time for each token.
"""

from __future__ import annotations

from typing import Final

import msgspec

ALPN: Final = "shoal/1"
MAX_HEAD: Final = 1 << 20
"""Longest head taken, bytes."""

BROKEN: Final = 1
"""Error code of a stream whose answer broke off."""
UNWANTED: Final = 2
"""Error code of a stream whose client has gone."""

_LENGTH = 4


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who speaks.

    Attributes:
        node: name of the node.
        incarnation: start of its relay, ms since the epoch.
    """

    node: str
    incarnation: int


class CallHead(msgspec.Struct, frozen=True, tag="call"):
    """A `Call` without its body; see there. ``deadline`` is left as seconds from now: clocks differ."""

    id: str
    engine: str
    model: str
    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    within: float | None
    priority: int


class AnswerHead(msgspec.Struct, frozen=True, tag="answer"):
    """An `Answer` without its body, or why there is none.

    Attributes:
        status: of HTTP, 0 where there is no answer.
        headers: of it.
        served_by: the engine.
        error: why there is none.
        unsent: no engine can have begun.
    """

    status: int
    headers: list[tuple[bytes, bytes]] = []
    served_by: str = ""
    error: str = ""
    unsent: bool = False


Head = Hello | CallHead | AnswerHead


class HeadError(ValueError):
    """A stream that does not begin with a head."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)


def encode(head: Head) -> bytes:
    """Return a head as it begins a stream."""
    payload = _ENCODER.encode(head)
    return len(payload).to_bytes(_LENGTH, "big") + payload


class HeadReader:
    """Takes the head off a stream."""

    def __init__(self) -> None:
        self._data = b""
        self.head: Head | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what has come and return what belongs to the body.

        Raises:
            HeadError: it is no head.
        """
        if self.head is not None:
            return data
        self._data += data
        if len(self._data) < _LENGTH:
            return b""
        length = int.from_bytes(self._data[:_LENGTH], "big")
        if length > MAX_HEAD:
            raise HeadError(f"a head of {length} bytes")
        end = _LENGTH + length
        if len(self._data) < end:
            return b""
        try:
            self.head = _DECODER.decode(self._data[_LENGTH:end])
        except msgspec.MsgspecError as error:
            raise HeadError(str(error)) from error
        rest, self._data = self._data[end:], b""
        return rest
