"""What all nodes of a cluster come to agree on without a file: who joined or left, and the configuration applied last.

No I/O and no quorum. Each node keeps it on disk, heartbeats carry its digest, and whoever hears another digest asks for
the rest and merges. Merging is the same in any order: of two entries for a node the newer one counts, of two
configurations the one of the higher generation. So nodes that were apart agree again as soon as they hear each other.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """A node that joined or left while the cluster ran.

    Attributes:
        host: as other nodes reach it.
        port: of its gateway and its heartbeats.
        weight: share of work relative to the other nodes.
        role: ``serve`` or ``gateway``.
        present: it belongs to the cluster; False once it has left for good.
        stamp: when that was said, ms since the epoch.
    """

    host: str
    port: int
    weight: float = 1.0
    role: str = "serve"
    present: bool = True
    stamp: int = 0

    @property
    def name(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was applied.

    Attributes:
        generation: grows by one with each; 0 is what nodes were started with.
        stamp: when it was applied, ms since the epoch.
        by: node that the order was given to.
        document: see `shoal.config.shared`.
    """

    generation: int
    stamp: int
    by: str
    document: dict[str, Any]


class Agreed(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `joined` is by node name."""

    applied: Applied | None = None
    joined: dict[str, Joined] = {}

    @property
    def generation(self) -> int:
        """Of the configuration applied last, 0 if none was."""
        return self.applied.generation if self.applied else 0

    def digest(self) -> str:
        """Return 16 hex characters that are equal where the content is, "" for nothing."""
        if self == Agreed():
            return ""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


def merge(mine: Agreed, theirs: Agreed) -> Agreed:
    """Return what two nodes know together."""
    joined = dict(mine.joined)
    for name, entry in theirs.joined.items():
        known = joined.get(name)
        if known is None or _rank(entry) > _rank(known):
            joined[name] = entry
    return Agreed(applied=_newer(mine.applied, theirs.applied), joined=joined)


def _rank(entry: Joined) -> tuple[int, bytes]:
    return entry.stamp, msgspec.json.encode(entry, order="deterministic")


def _newer(mine: Applied | None, theirs: Applied | None) -> Applied | None:
    if mine is None or theirs is None:
        return mine or theirs

    def rank(applied: Applied) -> tuple[int, int, bytes]:
        return applied.generation, applied.stamp, msgspec.json.encode(applied, order="deterministic")

    return max(mine, theirs, key=rank)
