"""The files and batches of the cluster, as one node gets at them: its own, and what the others have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from shoal.batch import data, wire
from shoal.batch.channel import Channel, ConflictError, PeerError
from shoal.batch.cluster import Cluster, Peer
from shoal.batch.counts import Executed
from shoal.batch.records import (
    BatchRecord,
    FileRecord,
    Record,
    Version,
    batch_of,
    common_length,
    supersedes,
    version,
)
from shoal.batch.replica import Replica
from shoal.batch.store import Query, Store

T = TypeVar("T")


async def nothing(_: str) -> None:
    """Stand in for `Library.on_lost`."""


class Library:
    """Records and files, here and on the other nodes.

    Args:
        store: this node's.
        channel: to the others.
        cluster: returns the nodes as they are now.

    Attributes:
        executed: what was done here since the process began.
        live: batches that this node is executing; what the store has of them may be a second old.
        confirmed: ids of records that this node owns for certain: no other holder has said otherwise since it started.
        on_lost: called with the id of a record that somebody else owns now, before that is acted on.
    """

    def __init__(self, store: Store, channel: Channel, cluster: Callable[[], Cluster]) -> None:
        self.store = store
        self.channel = channel
        self.cluster = cluster
        self.live: dict[str, BatchRecord] = {}
        self.executed = Executed()
        self.confirmed: set[str] = set()
        self.on_lost: Callable[[str], Awaitable[None]] = nothing
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def me(self) -> str:
        """Name of this node."""
        return self.cluster().me

    def lock(self, id_: str) -> asyncio.Lock:
        """Return what keeps those apart that change a record, or what it governs."""
        return self._locks.setdefault(id_, asyncio.Lock())

    # -- finding

    async def local(self, id_: str) -> Record | None:
        """Return this node's version of a record."""
        return self.live.get(id_) or await self.store.run(self.store.get, id_)

    def is_mine(self, record: Record | None) -> bool:
        """Return whether this node is in charge of a record, beyond doubt."""
        return record is not None and record.owner == self.me and record.id in self.confirmed

    async def find(self, id_: str) -> Record | None:
        """Return the version of a record that holds in the cluster; None if there is none, or it is deleted."""
        best = await self.local(id_)
        if not self.is_mine(best):
            best = await self.newest(id_)
        return None if best is None or best.deleted else best

    async def newest(self, id_: str) -> Record | None:
        """Return the version of a record that holds among all nodes that answer, this one included."""
        best = await self.local(id_)
        for record in await self.ask_all(lambda peer: self.channel.record(peer, id_)):
            if record is not None and (best is None or supersedes(version(record), version(best))):
                best = record
        return best

    async def listing(self, query: Query) -> list[Record]:
        """Return the records asked for, of all nodes."""
        found = await self.find_here(query)
        best = {record.id: record for record in found}
        for records in await self.ask_all(lambda peer: self.channel.find(peer, query)):
            for record in records:
                known = best.get(record.id)
                if known is None or supersedes(version(record), version(known)):
                    best[record.id] = record
        ordered = sorted(best.values(), key=lambda r: r.id, reverse=not query.ascending)
        return [record for record in ordered if not record.deleted][: query.limit]

    async def find_here(self, query: Query) -> list[Record]:
        """Return the records asked for, of this node alone."""
        found = await self.store.run(self.store.find, query)
        return [self.live.get(record.id, record) for record in found]

    async def ask_all(self, ask: Callable[[Peer], Awaitable[T]]) -> list[T]:
        """Return what the other nodes say; those that do not answer are left out."""

        async def one(peer: Peer) -> list[T]:
            try:
                return [await ask(peer)]
            except PeerError:
                return []

        answers = await asyncio.gather(*(one(peer) for peer in self.cluster().alive()))
        return [answer for some in answers for answer in some]

    # -- keeping

    async def keep(self, record: Record) -> None:
        """Keep a record that this node owns."""
        self.confirmed.add(record.id)
        await self.store.run(self.store.put, record)

    async def adopt(self, record: Record) -> Record:
        """Take another node's version of a record if it holds against this node's; return the one that holds."""
        async with self.lock(record.id):
            known = await self.local(record.id)
            if known is not None and not supersedes(version(record), version(known)):
                return known
            me = self.me
            if record.owner == me and known is not None and record.id in self.live:
                return known  # an echo: what this node said before its process started anew
            if record.owner != me:
                self.confirmed.discard(record.id)
                await self.on_lost(record.id)
            if (
                isinstance(record, BatchRecord)
                and known is not None
                and known.generation != record.generation
            ):
                await self._give_up_results(record, known.generation)
            if me not in record.holders:
                await self._forget(record)
            else:
                await self.store.run(self.store.put, record)
                if record.deleted:
                    self.store.path(record.id).unlink(missing_ok=True)
            return record

    async def _give_up_results(self, record: BatchRecord, since: int) -> None:
        """Cut off what the batch's present owner did not have of its former owner's results."""
        for file_id, most in zip(
            (record.output_file_id, record.error_file_id), common_length(record, since), strict=True
        ):
            path = self.store.path(file_id)
            await asyncio.to_thread(data.cut, path, most)
            if (known := await self.local(file_id)) is not None and known.generation < record.generation:
                # A former owner's idea of the finished file. The present one will say what it is.
                await self.store.run(self.store.put, msgspec.structs.replace(known, deleted=True))

    async def _forget(self, record: Record) -> None:
        await self.store.run(self.store.remove, record.id)
        if isinstance(record, BatchRecord) and record.is_open:
            for file_id in (record.output_file_id, record.error_file_id):
                self.store.path(file_id).unlink(missing_ok=True)

    async def compare(self, versions: dict[str, Version]) -> wire.Difference:
        """Return what this node has newer, or not at all, of what another node has."""
        newer, missing = [], []
        for id_, theirs in versions.items():
            mine = await self.local(id_)
            if mine is None or not self._is_whole(mine):
                missing.append(id_)
            elif supersedes(version(mine), theirs):
                newer.append(mine)
        return wire.Difference(tuple(newer), tuple(missing))

    def _is_whole(self, record: Record) -> bool:
        """Return whether what a record is about is here."""
        if record.deleted or not isinstance(record, FileRecord):
            return True
        return data.length(self.store.path(record.id)) == record.bytes

    # -- other nodes' copies

    def replica(self, peer: Peer, file_id: str, batch: BatchRecord | None = None) -> Replica:
        """Return what keeps the copy of a file on a node up to date."""
        fence = None if batch is None else (batch.id, batch.generation, batch.owner)
        return Replica(self.channel, peer, file_id, self.store.path(file_id), fence)

    async def tell(self, record: Record, peer: Peer) -> None:
        """Have a node keep a record, whose files it has.

        Raises:
            PeerError: it does not.
            ConflictError: it has a version that holds against this one, which is taken over here.
        """
        try:
            await self.channel.put_record(peer, record)
        except ConflictError as error:
            if error.conflict.record is not None:
                await self.adopt(error.conflict.record)
            raise

    async def copy(self, record: Record, peer: Peer) -> None:
        """Bring a record and its files to a node, as far as they are not there; this node has all of it.

        Raises:
            PeerError: it does not take them.
            ConflictError: it has a version that holds against this one, which is taken over here.
        """
        try:
            if isinstance(record, BatchRecord):
                await self.tell(record, peer)
                await self.replica(peer, record.output_file_id, record).push(record.output)
                await self.replica(peer, record.error_file_id, record).push(record.errors_size)
            elif not record.deleted:
                batch = await self._batch_of(record)
                if batch is not None:
                    await self.tell(batch, peer)
                await self.replica(peer, record.id, batch).push(record.bytes)
                await self.tell(record, peer)
            else:
                await self.tell(record, peer)
        except ConflictError as error:
            if error.conflict.record is not None:
                await self.adopt(error.conflict.record)
            raise

    async def _batch_of(self, file: FileRecord) -> BatchRecord | None:
        batch_id = batch_of(file.id)
        record = await self.local(batch_id) if batch_id else None
        return record if isinstance(record, BatchRecord) else None

    async def spread(self, record: Record, names: Iterable[str]) -> list[str]:
        """Bring a record and its files to nodes; return the names of those that have it then."""

        async def one(name: str) -> list[str]:
            peer = self.cluster().peer(name)
            if peer is None or not peer.alive:
                return []
            try:
                await self.copy(record, peer)
            except (PeerError, ConflictError):
                return []
            return [name]

        me = self.me
        done = await asyncio.gather(*(one(name) for name in names if name != me))
        return [name for some in done for name in some]

    async def has_all(self, record: FileRecord) -> bool:
        """Return whether the whole content of a file is here."""
        return await asyncio.to_thread(data.length, self.store.path(record.id)) == record.bytes
