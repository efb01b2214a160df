"""What clients can have done with files and batches, each seeing their own."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.batch.cluster import candidates
from shoal.batch.errors import ApiError, not_found
from shoal.batch.guard import Guard
from shoal.batch.library import Library
from shoal.batch.records import BatchRecord, FileRecord, Record, new_id, result_ids
from shoal.batch.store import Query
from shoal.batch.works import Works
from shoal.endpoints import JSON

ENDPOINTS = JSON
"""Paths that requests of a batch can be for: those of engines that answer with one JSON document."""

_WINDOW = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_WINDOW = 30 * 86_400
_MOST_METADATA = 16  # OpenAI's limits: pairs, characters of a name, characters of a value
_LONGEST_NAME = 64
_LONGEST_VALUE = 512
_LATER = "The node in charge of it is away; another one takes over in a few seconds. Try again then."


class Caller(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        key: name of the API key, "" where there is none.
        sees_all: an admin, or somebody whom nobody asks for a key.
    """

    key: str = ""
    sees_all: bool = True


class ElsewhereError(Exception):
    """Another node has to do this.

    Attributes:
        nodes: their names, the best first.
    """

    def __init__(self, nodes: list[str]) -> None:
        super().__init__("another node has to do this")
        self.nodes = nodes


class Desk:
    """Serves clients on one node.

    Args:
        library: the node's.
        works: the batches it executes.
        guard: of what it keeps.
        copies: nodes that are to have a batch.
    """

    def __init__(self, library: Library, works: Works, guard: Guard, copies: int) -> None:
        self._library = library
        self._works = works
        self._guard = guard
        self._copies = copies

    async def file(self, id_: str, caller: Caller) -> FileRecord:
        """Return a file.

        Raises:
            ApiError: there is none, for this caller.
        """
        record = await self._library.find(id_) if id_.startswith("file-") else None
        if not isinstance(record, FileRecord) or not _sees(caller, record):
            raise not_found("file", id_)
        return record

    async def batch(self, id_: str, caller: Caller) -> BatchRecord:
        """Return a batch.

        Raises:
            ApiError: there is none, for this caller.
        """
        record = await self._library.find(id_) if id_.startswith("batch_") else None
        if not isinstance(record, BatchRecord) or not _sees(caller, record):
            raise not_found("batch", id_)
        return record

    async def listing(self, query: Query, caller: Caller) -> tuple[list[Record], bool]:
        """Return the records asked for, and whether there are more behind them."""
        more = msgspec.structs.replace(
            query, limit=query.limit + 1, key=None if caller.sees_all else caller.key
        )
        found = await self._library.listing(more)
        return found[: query.limit], len(found) > query.limit

    async def create(self, fields: Mapping[str, Any], caller: Caller) -> BatchRecord:
        """Accept a batch; return when it is on the disks of all nodes that are to have it.

        Raises:
            ApiError: it is not as it should be.
            ElsewhereError: its input is on other nodes.
        """
        endpoint = _endpoint(fields.get("endpoint"))
        window, seconds = _window(fields.get("completion_window"))
        metadata = _metadata(fields.get("metadata"))
        kept = expires_after(fields.get("output_expires_after"))
        file_id = fields.get("input_file_id")
        if not isinstance(file_id, str) or not file_id:
            raise ApiError(400, "`input_file_id` is missing.", "missing_input_file", "input_file_id")
        source = await self.file(file_id, caller)
        if source.purpose != "batch":
            text = f"File {file_id} was uploaded for {source.purpose!r}; a batch needs one for 'batch'."
            raise ApiError(400, text, "invalid_purpose", "input_file_id")
        library = self._library
        cluster = library.cluster()
        if library.me not in source.holders or not await library.has_all(source):
            raise ElsewhereError([n for n in source.holders if n != library.me and cluster.is_alive(n)])
        id_ = new_id("batch_")
        output, errors = result_ids(id_)
        now = int(time.time())
        others = [name for name in source.holders if name != library.me]
        record = BatchRecord(
            id=id_,
            created_at=now,
            key=source.key if caller.sees_all else caller.key,
            owner=library.me,
            holders=(library.me, *others),
            endpoint=endpoint,
            input_file_id=file_id,
            output_file_id=output,
            error_file_id=errors,
            completion_window=window,
            expires_at=now + seconds,
            metadata=metadata,
            output_expires_after=kept,
        )
        # Here first: another node that has a record of which its owner knows nothing takes it over.
        await library.store.run(library.store.put, record)
        have = [library.me, *await library.spread(record, others)]
        for peer in candidates(cluster, source.id, {*record.holders}):
            if len(have) >= self._copies:
                break
            if await library.spread(source, [peer.name]) and await library.spread(record, [peer.name]):
                have.append(peer.name)
        record = msgspec.structs.replace(record, holders=tuple(have), revision=1)
        await library.keep(record)
        await library.spread(record, have)
        self._works.start(record)
        return record

    async def cancel(self, id_: str, caller: Caller) -> BatchRecord:
        """Have a batch end with what is done.

        Raises:
            ApiError: there is none, or it has ended.
            ElsewhereError: another node executes it.
        """
        record = await self.batch(id_, caller)
        self._require_owner(record)
        if not record.is_open:
            text = f"Batch {id_} cannot be cancelled any more: it is {record.status}."
            raise ApiError(409, text, "batch_not_open", "batch_id")
        if record.status == "cancelling":
            return record
        changes = {"status": "cancelling", "cancelling_at": int(time.time())}
        work = self._works.get(id_)
        if work is None:
            record = msgspec.structs.replace(record, revision=record.revision + 1, **changes)
            await self._library.keep(record)
            self._works.start(record)
        else:
            record = await work.cancel(**changes)
        await self._library.spread(record, record.holders)
        return record

    async def delete(self, id_: str, caller: Caller) -> None:
        """Delete a file.

        Raises:
            ApiError: there is none, or it is in use.
            ElsewhereError: another node is in charge of it.
        """
        record = await self.file(id_, caller)
        self._require_owner(record)
        store = self._library.store
        users = [b.id for b in await store.run(store.unfinished) if b.input_file_id == id_]
        if users:
            text = f"File {id_} is the input of {users[0]}, which is not finished; cancel that first."
            raise ApiError(409, text, "file_in_use", "file_id")
        await self._guard.delete(record)

    def _require_owner(self, record: Record) -> None:
        if self._library.is_mine(record):
            return
        if record.owner != self._library.me and self._library.cluster().is_alive(record.owner):
            raise ElsewhereError([record.owner])
        raise ApiError(503, _LATER, "owner_away")


def _sees(caller: Caller, record: Record) -> bool:
    return caller.sees_all or record.key == caller.key


def _endpoint(value: Any) -> str:
    if not isinstance(value, str) or value not in ENDPOINTS:
        known = ", ".join(sorted(ENDPOINTS))
        raise ApiError(400, f"`endpoint` must be one of {known}.", "invalid_endpoint", "endpoint")
    return value


def _window(value: Any) -> tuple[str, int]:
    match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_WINDOW:
        text = "`completion_window` must be a time such as 24h, 90m or 7d, at most 30d."
        raise ApiError(400, text, "invalid_completion_window", "completion_window")
    return value, seconds


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or len(value) > _MOST_METADATA
        or not all(
            isinstance(v, str) and len(k) <= _LONGEST_NAME and len(v) <= _LONGEST_VALUE
            for k, v in value.items()
        )
    ):
        text = (
            f"`metadata` takes up to {_MOST_METADATA} texts of up to {_LONGEST_VALUE} characters, with names of up to "
            f"{_LONGEST_NAME}."
        )
        raise ApiError(400, text, "invalid_metadata", "metadata")
    return value


def expires_after(value: Any) -> int | None:
    """Return the seconds in OpenAI's ``{"anchor": "created_at", "seconds": 3600}``, None where there is none.

    Raises:
        ApiError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, dict) and value.get("anchor") == "created_at":
        try:
            seconds = int(value.get("seconds", 0))
        except (TypeError, ValueError):
            seconds = 0
        if 0 < seconds <= 3650 * 86_400:
            return seconds
    text = '`expires_after` must be {"anchor": "created_at", "seconds": N}.'
    raise ApiError(400, text, "invalid_expires_after", "expires_after")
