"""The words in which nodes talk to each other during a check: frames and datagrams that only holders of the cluster
secret can make.

On TCP the answering side begins with a mark and a nonce, the asking one answers with its own. Both together make the
key of the connection; each frame is numbered, so nothing that was heard can be sent again. A frame is 4 bytes of
length, 32 of HMAC-SHA256, and msgpack.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from typing import Any

import msgspec

from shoal.cluster.wire import derive_key

MARK = b"SHOALCHK"
"""What an answering node begins with, on TCP; datagrams begin with it, too."""

NONCE = 16
"""Bytes of a nonce."""

_MAC = 32
_LONGEST = 16 * 1024 * 1024  # bytes of a frame: lists of files are long


class NotOurs(Exception):  # noqa: N818 - that is what it is
    """Something that no node of this cluster has sent."""


def key_of(cluster: str, secret: str | None) -> bytes:
    """Return the key of a cluster's checks."""
    return derive_key(secret, f"check {cluster}")


class Conversation:
    """One TCP connection between two nodes.

    Args:
        key: the cluster's.
        reader: of the connection.
        writer: of it.
        asks: this side asks, the other one answers.
    """

    def __init__(
        self, key: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool
    ) -> None:
        self._key = key
        self._reader = reader
        self._writer = writer
        self._asks = asks
        self._sent = 0
        self._received = 0

    async def greet(self) -> None:
        """Exchange nonces.

        Raises:
            NotOurs: the other side does not speak this.
        """
        own = os.urandom(NONCE)
        if self._asks:
            hello = await self._read(len(MARK) + NONCE)
            if not hello.startswith(MARK):
                raise NotOurs("it speaks something else")
            self._writer.write(own)
            both = hello[len(MARK) :] + own
        else:
            self._writer.write(MARK + own)
            both = own + await self._read(NONCE)
        self._key = hmac.digest(self._key, both, "sha256")

    async def send(self, message: object) -> None:
        """Send a message: anything msgpack takes."""
        body = msgspec.msgpack.encode(message)
        mac = self._mac(b"?" if self._asks else b"!", self._sent, body)
        self._sent += 1
        self._writer.write(len(body).to_bytes(4, "big") + mac + body)
        await self._writer.drain()

    async def receive(self, kind: Any = dict[str, Any]) -> Any:
        """Return the next message.

        Args:
            kind: its type.

        Raises:
            NotOurs: it cannot be from a node of this cluster.
        """
        head = await self._read(4 + _MAC)
        size = int.from_bytes(head[:4], "big")
        if size > _LONGEST:
            raise NotOurs("it speaks something else")
        body = await self._read(size)
        mac = self._mac(b"!" if self._asks else b"?", self._received, body)
        self._received += 1
        if not hmac.compare_digest(mac, head[4:]):
            raise NotOurs("its cluster.secret or cluster.name differs")
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise NotOurs(f"another version of Shoal answers: {error}") from None

    async def send_bytes(self, count: int) -> None:
        """Send so many bytes that say nothing."""
        block = bytes(256 * 1024)
        while count > 0:
            self._writer.write(block[:count])
            await self._writer.drain()
            count -= len(block)

    async def take_bytes(self, count: int) -> None:
        """Read and forget so many bytes."""
        while count > 0:
            data = await self._reader.read(min(count, 1 << 20))
            if not data:
                raise NotOurs("it went away")
            count -= len(data)

    def _mac(self, way: bytes, number: int, body: bytes) -> bytes:
        return hmac.digest(self._key, way + number.to_bytes(8, "big") + body, "sha256")

    async def _read(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            if error.partial and not MARK.startswith(error.partial[: len(MARK)]):
                raise NotOurs("it speaks something else") from None
            raise NotOurs("it went away") from None


def datagram(key: bytes, way: bytes, nonce: bytes) -> bytes:
    """Return a datagram: ``?`` is a question, ``!`` its answer."""
    return MARK + way + nonce + hmac.digest(key, way + nonce, "sha256")


def nonce_of(key: bytes, way: bytes, data: bytes) -> bytes | None:
    """Return the nonce of a datagram, None if no node of this cluster has sent it."""
    start = len(MARK) + 1
    nonce = data[start : start + NONCE]
    return nonce if hmac.compare_digest(data, datagram(key, way, nonce)) else None
