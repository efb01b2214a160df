"""What nodes say to each other about files and batches: paths, headers and bodies."""

from __future__ import annotations

from typing import Final

import msgspec

from shoal.batch.records import Record, Version

COMPARE: Final = "/shoal/nodes/v1/compare"
RECORDS: Final = "/shoal/nodes/v1/records"
FIND: Final = "/shoal/nodes/v1/find"
DATA: Final = "/shoal/nodes/v1/data"

KEY_HEADER: Final = "x-shoal-key"
ROLE_HEADER: Final = "x-shoal-key-role"
LOCAL_HEADER: Final = "x-shoal-from-node"
"""Names the node that passes a request on, so that it is not passed on once more."""

PIECE: Final = 4 * 1024 * 1024
"""Bytes of a file sent at once."""


class Comparison(msgspec.Struct, frozen=True):
    """The versions that a node has of what it shares with another one."""

    sender: str
    versions: dict[str, Version]


class Difference(msgspec.Struct, frozen=True):
    """What the other one has newer, and what it does not have at all."""

    newer: tuple[Record, ...]
    missing: tuple[str, ...]


class Length(msgspec.Struct, frozen=True):
    """Bytes of a data file that are on a node's disk."""

    length: int


class Conflict(msgspec.Struct, frozen=True):
    """Why data or a record are not taken.

    Attributes:
        length: where the data have to go on.
        record: a version that holds against the sender's; None where it is only about the length, or the record has
            to come first.
    """

    length: int = 0
    record: Record | None = None
