"""What nodes keep of files and batches, and what clients see of it. Plain frozen data.

Every record says which nodes have it (`holders`) and which of them is in charge (`owner`). Only the owner changes a
record, and each time raises its `revision`. Another holder that takes over raises the `generation`: of two versions
the one of the higher generation holds, whatever the other one says, so that an owner that comes back has nothing to say
any more.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, TypeAlias

import msgspec

OPEN: Final = frozenset(("validating", "in_progress", "finalizing", "cancelling"))
"""Statuses of batches that somebody has to work on."""

DAY: Final = 86_400


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What all records have.

    Attributes:
        id: ``file-...`` or ``batch_...``.
        created_at: seconds since the epoch.
        key: name of the API key it belongs to, "" if it was made without.
        owner: name of the node in charge.
        holders: names of the nodes that have it, the owner included.
        generation: how many owners it has had.
        revision: how often the owner changed the record.
        deleted: it is gone; the record stays for a while, for nodes that have not heard of it. Batches never are.
    """

    id: str
    created_at: int
    key: str = ""
    owner: str
    holders: tuple[str, ...]
    generation: int = 1
    revision: int = 0
    deleted: bool = False


class FileRecord(_Kept, frozen=True, kw_only=True, tag="file"):
    """A file.

    Attributes:
        bytes: its size.
        filename: as the client named it.
        purpose: ``batch``, ``batch_output`` or another one of OpenAI's.
        expires_at: it is deleted then, seconds since the epoch; None for never.
    """

    bytes: int
    filename: str
    purpose: str
    expires_at: int | None = None


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with a batch as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchRecord(_Kept, frozen=True, kw_only=True, tag="batch"):
    """A batch, which its owner executes. What is not explained is as in OpenAI's; times are seconds since the epoch.

    Attributes:
        starts: (generation, bytes of output, bytes of errors) that each owner after the first began with. What older
            owners wrote beyond that is void.
        output: bytes of the output file that are safe with the owner.
        errors_size: the same of the error file.
    """

    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    completion_window: str
    expires_at: int
    metadata: dict[str, str] | None = None
    output_expires_after: int | None = None
    status: str = "validating"
    errors: tuple[BatchError, ...] = ()
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    starts: tuple[tuple[int, int, int], ...] = ()
    output: int = 0
    errors_size: int = 0

    @property
    def is_open(self) -> bool:
        """Whether somebody has to work on it."""
        return self.status in OPEN


Record: TypeAlias = FileRecord | BatchRecord
"""A file or a batch."""

Version: TypeAlias = tuple[int, str, int]
"""Generation, owner and revision of a record."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record).decode


def version(record: Record) -> Version:
    """Return what tells versions of a record apart."""
    return record.generation, record.owner, record.revision


def supersedes(one: Version, other: Version) -> bool:
    """Return whether version `one` of a record holds against `other`.

    Where two nodes took over at the same time, not hearing each other, the one with the lower name prevails.
    """
    if one[0] != other[0]:
        return one[0] > other[0]
    return one[1] < other[1] if one[1] != other[1] else one[2] > other[2]


def common_length(record: BatchRecord, since: int) -> tuple[int, int]:
    """Return the bytes of output and errors that a holder may keep which followed the owner of an earlier generation.

    Args:
        record: as it is now.
        since: generation that the holder followed.
    """
    later = [start for start in record.starts if start[0] > since]
    most = 1 << 62
    return min((s[1] for s in later), default=most), min((s[2] for s in later), default=most)


def new_id(prefix: str) -> str:
    """Return an id; of two, the one made later sorts later (by the clocks of the nodes that made them).

    Args:
        prefix: ``file-`` or ``batch_``.
    """
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


def result_ids(batch: str) -> tuple[str, str]:
    """Return the ids that the output and error files of a batch have, whoever makes them."""
    name = batch.removeprefix("batch_")
    return f"file-{name}out", f"file-{name}err"


def batch_of(file_id: str) -> str | None:
    """Return the batch whose output or error file a file is, None for another file."""
    name = file_id.removeprefix("file-")
    return f"batch_{name[:-3]}" if name.endswith(("out", "err")) else None


def is_id(text: str) -> bool:
    """Return whether a text can be an id: a name that is safe as a file's."""
    return text.startswith(("file-", "batch_")) and text.replace("-", "").replace("_", "").isalnum()


def file_document(record: FileRecord) -> dict[str, Any]:
    """Return a file as OpenAI's API shows it, and on which nodes it is."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "shoal": {"owner": record.owner, "copies": list(record.holders), "generation": record.generation},
    }


def batch_document(record: BatchRecord) -> dict[str, Any]:
    """Return a batch as OpenAI's API shows it, and on which nodes it is."""
    done = not record.is_open
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": msgspec.to_builtins(record.errors)} if record.errors else None,
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": record.status,
        "output_file_id": record.output_file_id if done and record.output else None,
        "error_file_id": record.error_file_id if done and record.errors_size else None,
        "created_at": record.created_at,
        "in_progress_at": record.in_progress_at,
        "expires_at": record.expires_at,
        "finalizing_at": record.finalizing_at,
        "completed_at": record.completed_at,
        "failed_at": record.failed_at,
        "expired_at": record.expired_at,
        "cancelling_at": record.cancelling_at,
        "cancelled_at": record.cancelled_at,
        "request_counts": {"total": record.total, "completed": record.completed, "failed": record.failed},
        "usage": {
            "input_tokens": record.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": record.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": record.input_tokens + record.output_tokens,
        },
        "metadata": record.metadata,
        "shoal": {"owner": record.owner, "copies": list(record.holders), "generation": record.generation},
    }
