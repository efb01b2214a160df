"""API keys as a gateway worker knows them: a table of hashes, and finding the key that a request shows.

Keys are known by their SHA-256 only. A key is looked up by its digest, so there is nothing to compare byte by byte
and nothing that the time of a comparison could tell: who cannot invert SHA-256 cannot steer a digest towards one that
is in the table.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

MAX_KEYS = 4096
"""Keys that a node can hold at once: each has a place in the shared map of `shoal.gateway.key_cells`."""

_MAX_SECRET = 512  # bytes of a key that are looked at; ours have 52
_MAX_KNOWN = 2 * MAX_KEYS  # ways of writing a key that are remembered

# The lines that may hold a key, in a head that llhttp has accepted: no folded lines, no space in front of a colon.
_AUTHORIZATION, _X_API_KEY = b"\r\nauthorization:", b"\r\nx-api-key:"
_LINES = re.compile(rb"(?i)\r\n(?:authorization|x-api-key):[^\r]*")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key and what it allows.

    Attributes:
        name: whose it is; unique.
        digest: SHA-256 of the key.
        slot: its place in the shared map.
        admin: it opens the control paths (``/shoal/*``) too.
        models: ids of the models it may use, as clients name them; None for all.
        requests_per_minute: limit, None for none.
        tokens_per_minute: limit of prompt and completion tokens together, None for none.
        max_concurrent: most requests open at the same time, None for no limit.
        priority: of its requests; as in vLLM, lower is served earlier.
        expires: it is valid before this time, seconds since the epoch; None for ever.
    """

    name: str
    digest: bytes
    slot: int
    admin: bool = False
    models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    priority: int = 0
    expires: float | None = None

    def is_unlimited(self) -> bool:
        """Whether it opens every model, at any time and rate: there is nothing to judge about a request with it."""
        return self == Key(name=self.name, digest=self.digest, slot=self.slot, admin=self.admin)


class KeyTable(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of all keys. Never changed, only replaced.

    Attributes:
        keys: the keys; with none, nobody gets in.
        open_metrics: ``/metrics`` and ``/metrics/cluster`` need no key.
        scrape: SHA-256 of the key that opens these two all the same, ``b""`` for none.
        agent: of the node itself, which works for people who are not there: its secret alone is this key, and with
            a dot and the name of another key behind it, it is that one. None where it does no such work.
    """

    keys: tuple[Key, ...] = ()
    open_metrics: bool = True
    scrape: bytes = b""
    agent: Key | None = None


def digest_of(secret: bytes) -> bytes:
    """Return what a key is known by."""
    return hashlib.sha256(secret).digest()


def take_credentials(head: bytes) -> tuple[bytes, bytes]:
    """Return a request head without the lines that may hold a key, and these lines, each behind its CRLF."""
    lower = head.lower()
    start = lower.find(_AUTHORIZATION)
    if start >= 0 and _X_API_KEY not in lower and lower.find(_AUTHORIZATION, start + 1) < 0:
        end = lower.find(b"\r\n", start + 2)  # as nearly all clients do it, in half the time
        return (head[:start] + head[end:], head[start:end]) if end >= 0 else (head[:start], head[start:])
    return _LINES.sub(b"", head), b"".join(_LINES.findall(head))


class Keyring:
    """Finds keys by what requests show.

    The lines of a client are the same in each of its requests, so those that led to a key are remembered, until the
    next table: finding a key costs one look into a dict. What led to no key is not: that costs a hash each time.

    Args:
        table: the keys.

    Attributes:
        unlimited: keys without limits, by the lines that led to them.
    """

    __slots__ = ("_agent", "_by_digest", "_by_name", "_known", "unlimited")

    def __init__(self, table: KeyTable) -> None:
        self._by_digest = {key.digest: key for key in table.keys}
        self._by_name = {key.name.encode(): key for key in table.keys}
        self._agent = table.agent
        self._known: dict[bytes, Key] = {}
        self.unlimited: dict[bytes, Key] = {}

    def find(self, lines: bytes) -> Key | None:
        """Return the key in the lines that `take_credentials` gave, None if none of them holds a known one."""
        return self._known.get(lines) or self._search(lines)

    def _search(self, lines: bytes) -> Key | None:
        for secret in secrets_in(lines):
            key = self._by_digest.get(digest_of(secret)) or self._represented(secret)
            if key is not None:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                    self.unlimited.clear()
                self._known[lines] = key
                if key.is_unlimited():
                    self.unlimited[lines] = key
                return key
        return None

    def _represented(self, secret: bytes) -> Key | None:
        """Return the key that the node itself works for, None if it is not the node that asks."""
        token, dot, name = secret.partition(b".")
        if self._agent is None or digest_of(token) != self._agent.digest:
            return None
        return self._by_name.get(name) if dot else self._agent


def secrets_in(lines: bytes) -> list[bytes]:
    """Return what may be a key in header lines: bearer tokens (RFC 6750) and values of x-api-key, in their order."""
    found = []
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        value = value.strip()
        if name.lower() == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                continue
            value = value.strip()
        if value and len(value) <= _MAX_SECRET:
            found.append(value)
    return found
