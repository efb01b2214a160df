"""The heartbeat datagram: how members' messages look on the wire, and how they are authenticated. No I/O.

Layout::

    byte 0        version of this format
    bytes 1-8     fingerprint of the cluster's name
    bytes 9-40    HMAC-SHA256 over all other bytes, under a key derived from the cluster secret
    bytes 41-     msgpack of `Message`

The two top bits of the version are always 0. Every QUIC packet has one of them set (RFC 9000, section 17), so both
can share a UDP port and be told apart by their first byte, as RFC 9443 does it. Version and fingerprint keep their
places in every later format, so that nodes of different releases can say what is wrong.

A valid HMAC proves that the sender knows the secret; nothing is encrypted. Without a secret (clusters on loopback
only) the key is a constant: then the HMAC guards against stray datagrams, not against other users of the machine.
"""

# ruff: noqa: N818 - what a datagram or a name *is* reads better without the suffix Error

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final

import msgspec

from shoal.cluster.view import NodeReport

VERSION: Final = 1
MAX_DATAGRAM: Final = 60_000
"""Largest datagram in bytes; UDP over IPv4 carries 65,507 at most."""

_FINGERPRINT = slice(1, 9)
_MAC = slice(9, 41)
_HEADER_SIZE: Final = 41
NO_SECRET: Final = "shoal cluster on loopback, without a secret"
"""Stands for the secret where there is none."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class WireError(Exception):
    """A datagram that cannot be used. Its text says why."""


class Malformed(WireError):
    """Not a Shoal heartbeat at all, or one that this release cannot read."""


class WrongVersion(WireError):
    """A Shoal heartbeat of another format."""


class WrongCluster(WireError):
    """A Shoal heartbeat of a cluster with another name."""


class WrongSecret(WireError):
    """A heartbeat of this cluster that does not verify: the sender's secret is another one."""


class TooLarge(WireError):
    """A message does not fit into a datagram, even without what may be left out."""


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The sender lives; this is what it says of itself."""

    report: NodeReport


class ProbeRequest(msgspec.Struct, frozen=True, tag="probe"):
    """Asks the receiver whether `target`, whom the sender suspects, lives."""

    target: _Name


class ProbeReply(msgspec.Struct, frozen=True, tag="probed"):
    """Answers a `ProbeRequest`.

    Attributes:
        target: name of the member in question.
        incarnation: the newest the replier has heard of it, 0 if none.
        age: milliseconds since the replier last heard it, None if never or after a good-bye.
        reachable: whether its gateway accepted a TCP connection; None if that was not tried (yet).
    """

    target: _Name
    incarnation: _Count = 0
    age: _Count | None = None
    reachable: bool | None = None


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Asks for a heartbeat at once. It is no sign of life itself: a node sends it before it joins, too."""


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The sender leaves in good order."""


class Traffic(msgspec.Struct, frozen=True, tag="traffic"):
    """What the sender's gateways have at engines, by engine's full id; see `shoal.node.sharing`.

    Attributes:
        in_flight: open requests; zeros left out.
        work: bytes of prompt on their way that no answer has begun for; zeros left out.
        blocks: prompt blocks sent there that the engine was not known to have: 64-bit hashes, little-endian.
    """

    in_flight: dict[_Name, _Count] = {}
    work: dict[_Name, _Count] = {}
    blocks: dict[_Name, bytes] = {}


Payload = Heartbeat | ProbeRequest | ProbeReply | Hello | Goodbye | Traffic


class Message(msgspec.Struct, frozen=True):
    """What a datagram carries.

    Attributes:
        sender: name of the sending node.
        incarnation: start of the sending process, ms since the epoch.
        sequence: grows with each datagram of an incarnation.
        payload: what is said.
    """

    sender: _Name
    incarnation: _Count
    sequence: _Count
    payload: Payload


def derive_key(secret: str | None, purpose: str) -> bytes:
    """Return a 32-byte key for one purpose, by HKDF-SHA256 (RFC 5869) from the cluster secret or a constant."""
    extracted = hmac.digest(b"shoal", (secret if secret is not None else NO_SECRET).encode(), "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")


class Codec:
    """Encodes and decodes the datagrams of one cluster."""

    def __init__(self, cluster: str, secret: str | None) -> None:
        """Take the cluster's name and its secret, None for a cluster on loopback."""
        # Copied for each datagram: to begin with the key takes OpenSSL 3 three times as long as all the rest.
        self._keyed = hmac.new(derive_key(secret, "heartbeat"), digestmod="sha256")
        self._start = bytes([VERSION]) + hashlib.sha256(cluster.encode()).digest()[:8]
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Message)

    def encode(self, message: Message) -> bytes:
        """Return the datagram for `message`; a report that does not fit otherwise goes without details.

        These are the engines' `detail`, and the use of API keys: then each node sees to their limits by itself.

        Raises:
            TooLarge: it does not fit into `MAX_DATAGRAM` bytes even so.
        """
        body = self._encoder.encode(message)
        if _HEADER_SIZE + len(body) > MAX_DATAGRAM and isinstance(message.payload, Heartbeat):
            body = self._encoder.encode(_without_details(message, message.payload.report))
        size = _HEADER_SIZE + len(body)
        if size > MAX_DATAGRAM:
            raise TooLarge(f"a message of {size:,} bytes does not fit into a datagram of {MAX_DATAGRAM:,}")
        return self._start + self._mac(self._start, body) + body

    def decode(self, datagram: bytes) -> Message:
        """Return the message in `datagram`.

        Raises:
            WireError: one of its kinds `Malformed`, `WrongVersion`, `WrongCluster`, `WrongSecret`, for whatever
                bytes; nothing else is ever raised.
        """
        if not _HEADER_SIZE < len(datagram) <= MAX_DATAGRAM or datagram[0] & 0b1100_0000:
            raise Malformed("not a Shoal heartbeat")
        start, body = datagram[: _FINGERPRINT.stop], datagram[_HEADER_SIZE:]
        same_cluster = start[_FINGERPRINT] == self._start[_FINGERPRINT]
        if start[0] != VERSION:
            if same_cluster:
                raise WrongVersion(f"heartbeat format {start[0]}, this release speaks {VERSION}")
            raise Malformed("not a Shoal heartbeat")
        if not same_cluster:
            raise WrongCluster("a heartbeat of a cluster with another name")
        if not hmac.compare_digest(datagram[_MAC], self._mac(start, body)):
            raise WrongSecret(
                "a heartbeat that does not verify: another cluster secret, or altered on its way"
            )
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise Malformed(f"an authentic heartbeat that this release cannot read: {error}") from error
        if isinstance(message.payload, Heartbeat) and message.payload.report.name != message.sender:
            raise Malformed("an authentic heartbeat that reports for another node than its sender")
        return message

    def _mac(self, start: bytes, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(start + body)
        return mac.digest()


def _without_details(message: Message, report: NodeReport) -> Message:
    engines = tuple(msgspec.structs.replace(engine, detail="") for engine in report.engines)
    bare = msgspec.structs.replace(report, engines=engines, key_use={})
    return msgspec.structs.replace(message, payload=Heartbeat(bare))
