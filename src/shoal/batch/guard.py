"""Watches over what this node keeps: that its owners live, that there are enough copies, that they are up to date.

Once a second each node compares with every other one what both should have. Who turns out to be behind takes the newer
version; an owner that does not have a record any more, since its disk is lost, is as good as dead. A lost owner's
place is taken by the first of the other holders, in an order that all of them know, with a higher generation
(`records`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from shoal.batch import data
from shoal.batch.channel import ConflictError, PeerError
from shoal.batch.cluster import Peer, candidates, successor
from shoal.batch.digests import Bits
from shoal.batch.library import Library
from shoal.batch.records import DAY, BatchRecord, FileRecord, Record, Version, supersedes, version
from shoal.batch.results import done
from shoal.batch.works import Notice, Works

_TICK = 1.0  # s
_EVERYTHING = 30.0  # s between two comparisons of all records, and not only of what is being worked on
_CLEAN_EVERY = 600.0  # s
_AT_ONCE = 500  # records in one comparison
_UNHEARD = 6  # so many times the patience with a node that was never heard of: it may just start more slowly
_TOMBSTONES = 30 * DAY  # s that it is remembered that a file was deleted
_STRAYS = DAY  # s after which an upload that was broken off is removed


class Settings(msgspec.Struct, frozen=True):
    """What to go by.

    Attributes:
        copies: nodes that are to have each file and batch, the owner included.
        takeover_after: seconds an owner must be lost before its batches are taken over.
        repair_after: seconds a holder must be lost before another node gets its copies.
    """

    copies: int
    takeover_after: float
    repair_after: float


class Guard:
    """One node's part in it.

    Args:
        library: the node's.
        works: the batches it executes.
        settings: what to go by.
        notice: told what people should know.
    """

    def __init__(self, library: Library, works: Works, settings: Settings, notice: Notice) -> None:
        self._library = library
        self._works = works
        self._settings = settings
        self._notice = notice
        self._began = time.monotonic()
        self._gone: dict[str, float] = {}  # since when nodes are lost
        self._compared: dict[str, int] = {}  # incarnation of the nodes that everything was compared with
        self._without: dict[str, set[str]] = {}  # nodes that have lost a record, by its id
        self._whole = self._cleaned = float("-inf")
        self._told = ""
        self._unsettled = False  # there are records of which it is not certain yet whose they are
        self._repairing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Do it, for ever."""
        while True:
            try:
                await self._round()
            except Exception as error:  # the next round may be luckier
                if repr(error) != self._told:
                    self._told = repr(error)
                    self._notice(f"batches: {error!r}", "error")
            await asyncio.sleep(_TICK)

    async def stop(self) -> None:
        """Bring nothing anywhere any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _round(self) -> None:
        now = time.monotonic()
        cluster = self._library.cluster()
        for peer in cluster.peers:
            if peer.alive:
                if self._gone.pop(peer.name, None) is not None:
                    self._compared.pop(peer.name, None)  # much may have happened on both sides
            else:
                self._gone.setdefault(peer.name, now)
        store = self._library.store
        hot = await self._hot()
        news = any(self._compared.get(p.name) != p.incarnation for p in cluster.alive())
        whole = news or self._unsettled or now - self._whole > _EVERYTHING
        records = await store.run(store.everything) if whole else hot
        records = [self._library.live.get(r.id, r) for r in records]
        if records or whole:
            await asyncio.gather(*(self._compare(peer, records, whole) for peer in cluster.alive()))
        if whole:
            self._whole = now
            self._unsettled = False
            await self._tidy()
        for record in records:
            if not self._is_settled(record):
                await self._look_at(record.id)

    async def _hot(self) -> list[Record]:
        """Return the open batches and their inputs."""
        store = self._library.store
        if store.idle:
            return []
        batches = await store.run(store.unfinished)
        inputs = [await store.run(store.get, id_) for id_ in {b.input_file_id for b in batches}]
        return [*batches, *(record for record in inputs if record is not None)]

    # -- comparing

    async def _compare(self, peer: Peer, records: list[Record], whole: bool) -> None:
        me = self._library.me
        shared = {r.id: r for r in records if peer.name in r.holders and me in r.holders}
        items = list(shared.items())
        try:
            for start in range(0, len(items), _AT_ONCE):
                part = dict(items[start : start + _AT_ONCE])
                versions: dict[str, Version] = {id_: version(record) for id_, record in part.items()}
                difference = await self._library.channel.compare(peer, versions)
                for record in difference.newer:
                    await self._library.adopt(record)
                for id_ in difference.missing:
                    await self._missing(part[id_], peer)
                for id_ in part.keys() - set(difference.missing):
                    self._without.get(id_, set()).discard(peer.name)
        except PeerError:
            return
        if whole:
            self._compared[peer.name] = peer.incarnation

    async def _missing(self, record: Record, peer: Peer) -> None:
        """Note that a node does not have what it should have, and bring it there if this one is in charge."""
        if record.deleted:
            return
        self._without.setdefault(record.id, set()).add(peer.name)
        current = await self._library.local(record.id)
        if current is not None and self._library.is_mine(current):
            self._repair(current, peer)

    # -- one record

    def _is_settled(self, record: Record) -> bool:
        """Return whether nothing can be to do about a record: true of nearly all, nearly always."""
        if isinstance(record, BatchRecord) and record.is_open:
            return False
        if record.owner == self._library.me:
            there = sum(self._library.cluster().is_alive(name) for name in record.holders)
            return record.id in self._library.confirmed and there >= self._settings.copies
        return not self._is_lost(record)

    async def _look_at(self, id_: str) -> None:
        record = await self._library.local(id_)
        if record is None or record.deleted or self._library.me not in record.holders:
            return
        if record.owner == self._library.me:
            if id_ not in self._library.confirmed:
                if self._nobody_objects(record) and await self._is_newest(record):
                    self._library.confirmed.add(id_)
                else:
                    self._unsettled = True
            if id_ in self._library.confirmed:
                if isinstance(record, BatchRecord) and await self._has_input(record):
                    self._works.start(record)
                self._look_at_copies(record)
        elif self._is_lost(record) and not self._library.cluster().isolated:
            lost = self._without.get(id_, set())
            heir = successor(self._library.cluster(), record.holders, record.owner, lost=lost)
            if heir == self._library.me:
                await self._take_over(record)

    async def _has_input(self, record: BatchRecord) -> bool:
        source = await self._library.local(record.input_file_id)
        return isinstance(source, FileRecord) and not source.deleted and await self._library.has_all(source)

    def _nobody_objects(self, record: Record) -> bool:
        """Return whether every other holder has been asked since this node started, or cannot be."""
        return all(
            name in self._compared or self._is_away(name)
            for name in record.holders
            if name != self._library.me
        )

    def _is_away(self, name: str) -> bool:
        """Return whether a node has been lost for so long that others do its work."""
        cluster = self._library.cluster()
        peer = cluster.peer(name)
        if peer is not None and peer.alive:
            return False
        patience = self._settings.takeover_after
        since = self._gone.get(name, self._began)
        if peer is None or not peer.incarnation:
            return time.monotonic() - self._began > _UNHEARD * patience
        return time.monotonic() - since > patience

    def _is_lost(self, record: Record) -> bool:
        """Return whether a record's owner is away, or there and does not know of it."""
        return record.owner in self._without.get(record.id, ()) or self._is_away(record.owner)

    # -- taking over

    async def _is_newest(self, record: Record) -> bool:
        """Return whether no node at all has a version that holds against this one; if one has, take it over.

        Holders may have been replaced while this node was away, so those that it knows of are not enough to ask.
        """
        if not isinstance(record, BatchRecord) or not record.is_open:
            return True
        best = await self._library.newest(record.id)
        if best is None or not supersedes(version(best), version(record)):
            return True
        await self._library.adopt(best)
        return False

    async def _take_over(self, record: Record) -> None:
        library = self._library
        if not await self._is_newest(record):
            return
        if isinstance(record, FileRecord) and not await library.has_all(record):
            return  # there may be another holder that has it; this copy is worth nothing
        me = library.me
        why = "has lost it" if record.owner in self._without.get(record.id, ()) else "is away"
        generation = record.generation + 1
        holders = (me, *(name for name in record.holders if name != me))
        changed: Record
        if isinstance(record, BatchRecord):
            output, errors = await asyncio.to_thread(self._measure, record)
            changed = msgspec.structs.replace(
                record,
                owner=me,
                holders=holders,
                generation=generation,
                revision=0,
                starts=(*record.starts, (generation, output, errors)),
                output=output,
                errors_size=errors,
            )
            if record.is_open:
                text = f"batch {record.id} is taken over from {record.owner}, which {why}"
                self._notice(
                    f"{text}: {record.completed + record.failed} of {record.total} lines known", "warning"
                )
        else:
            changed = msgspec.structs.replace(
                record, owner=me, holders=holders, generation=generation, revision=0
            )
        await library.keep(changed)
        names = [name for name in holders if name not in self._without.get(record.id, ())]
        await asyncio.gather(*(self._tell(changed, name) for name in names if name != me))
        if isinstance(changed, BatchRecord) and await self._has_input(changed):
            self._works.start(changed)

    async def _tell(self, record: Record, name: str) -> None:
        peer = self._library.cluster().peer(name)
        if peer is not None and peer.alive:
            with contextlib.suppress(PeerError, ConflictError):
                await self._library.tell(record, peer)

    def _measure(self, record: BatchRecord) -> tuple[int, int]:
        """Return the bytes of output and errors that are whole lines, and cut off the rest."""
        numbers = Bits()
        sizes = []
        for file_id in (record.output_file_id, record.error_file_id):
            path = self._library.store.path(file_id)
            good = done(path, numbers)[0]
            data.cut(path, good)
            sizes.append(good)
        return sizes[0], sizes[1]

    # -- copies

    def _look_at_copies(self, record: Record) -> None:
        """See to it that enough nodes have a record: another one takes the place of a holder that stays away."""
        cluster, now = self._library.cluster(), time.monotonic()
        gone = [
            name
            for name in record.holders
            if not cluster.is_alive(name)
            and now - self._gone.get(name, self._began) > self._settings.repair_after
        ]
        if len(record.holders) - len(gone) >= self._settings.copies:
            return
        found = candidates(cluster, record.id, record.holders)
        if found and not cluster.isolated:
            self._repair(record, found[0])

    def _repair(self, record: Record, peer: Peer) -> None:
        """Bring a record to a node, and then count it among the holders."""
        if record.id in self._repairing:
            return
        self._repairing.add(record.id)
        task = asyncio.create_task(self._bring(record, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring(self, record: Record, peer: Peer) -> None:
        library = self._library
        try:
            future = msgspec.structs.replace(record, holders=(*record.holders, peer.name))
            if isinstance(record, BatchRecord):
                source = await library.local(record.input_file_id)
                if source is not None and not source.deleted and peer.name not in source.holders:
                    return  # its input comes first, by itself
            await library.copy(record if peer.name in record.holders else future, peer)
            self._without.get(record.id, set()).discard(peer.name)
            current = await library.local(record.id)
            if current is not None and library.is_mine(current) and peer.name not in current.holders:
                await self._replace_holders(current, peer)
        except (PeerError, ConflictError):
            pass  # the next round tries again
        finally:
            self._repairing.discard(record.id)

    async def _replace_holders(self, record: Record, newcomer: Peer) -> None:
        cluster, now = self._library.cluster(), time.monotonic()
        stay = [
            name
            for name in record.holders
            if cluster.is_alive(name)
            or now - self._gone.get(name, self._began) <= self._settings.repair_after
        ]
        holders = (*stay, newcomer.name)
        work = self._works.get(record.id)
        if work is not None:
            changed: Record = work.hold(holders)
        else:
            changed = msgspec.structs.replace(record, holders=holders, revision=record.revision + 1)
        await self._library.keep(changed)
        await asyncio.gather(*(self._tell(changed, name) for name in holders if name != self._library.me))
        self._notice(f"{record.id} is on {', '.join(holders)} now", "info")

    # -- the end of things

    async def _tidy(self) -> None:
        """Delete files whose time is over, and forget what was deleted long ago."""
        store, now = self._library.store, time.time()
        used = {batch.input_file_id for batch in await store.run(store.unfinished)}
        for file in await store.run(store.expired, now):
            if self._library.is_mine(file) and file.id not in used:
                await self.delete(file)
        if time.monotonic() - self._cleaned < _CLEAN_EVERY:
            return
        self._cleaned = time.monotonic()
        for record in await store.run(store.everything):
            if record.deleted and now - record.created_at > _TOMBSTONES:
                await store.run(store.remove, record.id)
        for path in await store.run(store.strays):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > _STRAYS:
                    path.unlink()

    async def delete(self, file: FileRecord) -> None:
        """Delete a file that this node owns, here and on the other nodes."""
        gone = msgspec.structs.replace(file, deleted=True, revision=file.revision + 1)
        await self._library.keep(gone)
        await asyncio.to_thread(self._library.store.path(file.id).unlink, missing_ok=True)
        await asyncio.gather(*(self._tell(gone, name) for name in gone.holders if name != self._library.me))
