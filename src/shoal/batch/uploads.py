"""Takes files in: what arrives goes to the disk here and on other nodes at the same time, however much it is."""

from __future__ import annotations

import asyncio
import time

import msgspec

from shoal.batch import data
from shoal.batch.channel import ConflictError, PeerError
from shoal.batch.cluster import candidates
from shoal.batch.errors import ApiError, DiskFullError
from shoal.batch.library import Library
from shoal.batch.lines import json_error
from shoal.batch.records import FileRecord, new_id
from shoal.batch.replica import Replica

_GROUP = 1 << 20  # bytes written at once
_COPIED_EVERY = 8 << 20  # bytes between two times that they are sent to the other nodes
_SPARE = 64 << 20  # bytes of a disk that are left for other things
_LOOKED_AT = 1000  # lines in which there has to be one that is JSON


class JsonLines:
    """Judges whether what arrives is JSONL at all: whether one of its first lines is a JSON object."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = b""
        self._number = 0
        self._first_bad = ""
        self.settled = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            ApiError: it is not JSONL.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take(line)
            if self.settled:
                return
        if len(self._rest) > self._longest:
            raise self._refusal("it is too long")

    def end(self) -> None:
        """Take the end of the file.

        Raises:
            ApiError: it is not JSONL.
        """
        if not self.settled and self._rest:
            self._take(self._rest)
        if not self.settled:
            raise self._refusal("")

    def _take(self, line: bytes) -> None:
        self._number += 1
        line = line.strip()
        if not line:
            return
        problem = json_error(line)
        if problem is None:
            self.settled = True
            return
        self._first_bad = self._first_bad or f"line {self._number}: {problem}"
        if self._number >= _LOOKED_AT:
            raise self._refusal("")

    def _refusal(self, why: str) -> ApiError:
        reason = self._first_bad or (f"line {self._number + 1}: {why}" if why else "it is empty")
        text = f"The file is not JSONL, one JSON object per line; {reason}."
        return ApiError(400, text, "invalid_jsonl", "file")


class Intake:
    """One file on its way in.

    Args:
        library: the node's.
        copies: nodes that are to have it.
        longest: bytes a file may have.
        longest_line: bytes a line may have.
    """

    def __init__(self, library: Library, copies: int, longest: int, longest_line: int) -> None:
        self.id = new_id("file-")
        self._library = library
        self._copies = copies
        self._longest = longest
        self._path = library.store.path(self.id)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._size = 0  # on the disk
        self._copied = 0
        self._check: JsonLines | None = JsonLines(longest_line)
        self._purpose: str | None = None
        self._problem: ApiError | None = None
        self._replicas: list[Replica] = []
        self._refused: dict[str, str] = {}  # nodes that did not take it, and why
        self._full: set[str] = set()

    def expect(self, size: int) -> None:
        """Refuse what cannot be taken, before it comes.

        Raises:
            ApiError: it is too large, or there is no room.
        """
        if size > self._longest:
            raise _too_large(self._longest)
        where = self._library.store.directory
        if size > data.free(where) - _SPARE:
            raise DiskFullError(f"node {self._library.me}")

    def is_for(self, purpose: str) -> None:
        """Say what it is for, as soon as that is known; until then it is looked at as if it was for batches.

        Raises:
            ApiError: it is not what it has to be for that.
        """
        self._purpose = purpose
        if purpose != "batch":
            self._check = self._problem = None
        elif self._problem is not None:
            raise self._problem

    async def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            ApiError: they cannot be taken.
        """
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes >= _GROUP:
            await self._flush()

    async def _flush(self) -> None:
        piece = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        if self._size + len(piece) > self._longest:
            raise _too_large(self._longest)
        if self._check is not None and not self._check.settled:
            self._judge(self._check, piece)
        self._size = await asyncio.to_thread(data.write_at, self._path, self._size, piece, sync=False)
        if self._size - self._copied >= _COPIED_EVERY:
            await self._copy()

    def _judge(self, check: JsonLines, piece: bytes) -> None:
        try:
            check.feed(piece)
        except ApiError as problem:
            if self._purpose is not None:
                raise
            self._problem, self._check = problem, None

    async def _copy(self) -> None:
        """Bring what there is to as many other nodes as are to have it."""
        while True:
            have = [replica.peer.name for replica in self._replicas]
            left = candidates(self._library.cluster(), self.id, {*have, *self._refused})
            self._replicas += [
                self._library.replica(peer, self.id) for peer in left[: self._copies - 1 - len(have)]
            ]
            results = await asyncio.gather(
                *(replica.push(self._size) for replica in self._replicas), return_exceptions=True
            )
            failed = []
            for replica, result in zip(self._replicas, results, strict=True):
                if isinstance(result, PeerError | ConflictError):
                    self._refused[replica.peer.name] = str(result)
                    if isinstance(result, PeerError) and result.full:
                        self._full.add(replica.peer.name)
                    failed.append(replica)
                elif isinstance(result, BaseException):
                    raise result
            if not failed:
                break
            self._replicas = [replica for replica in self._replicas if replica not in failed]
        self._copied = self._size

    async def finish(self, filename: str, key: str, expires_after: int | None) -> FileRecord:
        """Keep the file; return when it is on the disks of all nodes that are to have it. Its purpose must be known.

        Raises:
            ApiError: it is not what it should be, or cannot be kept.
        """
        if self._held:
            await self._flush()
        assert self._purpose is not None
        if self._check is not None:
            self._check.end()
        if not self._size:
            await asyncio.to_thread(data.write_at, self._path, 0, b"")
        await asyncio.to_thread(data.sync_file, self._path)
        await self._copy()
        self._require_copies()
        now = int(time.time())
        me = self._library.me
        record = FileRecord(
            id=self.id,
            created_at=now,
            key=key,
            owner=me,
            holders=(me, *(replica.peer.name for replica in self._replicas)),
            bytes=self._size,
            filename=filename,
            purpose=self._purpose,
            expires_at=now + expires_after if expires_after else None,
        )
        # Here first: another node that has a record of which its owner knows nothing takes it over.
        await self._library.keep(record)
        told = await self._library.spread(record, record.holders)
        if len(told) < len(self._replicas):
            record = msgspec.structs.replace(record, holders=(me, *told), revision=1)
            await self._library.keep(record)
            await self._library.spread(record, told)
        return record

    def _require_copies(self) -> None:
        """Refuse a file that nodes which are there did not take: it would not be as safe as it looks."""
        if len(self._replicas) + 1 >= self._copies:
            return
        full = [peer.name for peer in self._library.cluster().alive() if peer.name in self._full]
        if full:
            raise DiskFullError(f"node {', '.join(full)}, which would have to keep a copy")

    async def abandon(self) -> None:
        """Leave nothing of it here. Other nodes remove what nobody asks for by themselves."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)


def _too_large(longest: int) -> ApiError:
    return ApiError(
        413, f"The file is larger than {longest} bytes (`batch.max_file`).", "file_too_large", "file"
    )
