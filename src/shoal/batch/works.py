"""The batches that this node executes: started, copied to the other holders as they go on, finished."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import msgspec

from shoal.batch.channel import ConflictError, PeerError
from shoal.batch.library import Library
from shoal.batch.records import BatchRecord, FileRecord
from shoal.batch.replica import Replica
from shoal.batch.runner import Paths, Runner, Send

_RECORD_EVERY = 1.0  # s between two times that the counts of a batch are kept
_FAILED = 30.0  # s until a batch is tried again that stopped because of something that nobody foresaw
_AGAIN = 1.0  # s between two attempts to reach a holder
_LAST_COPIES = 30.0  # s that a finished batch waits for its holders to have all of it

Notice = Callable[[str, str], None]
"""Takes a sentence for people and its level."""


class Work:
    """One batch that this node executes.

    Args:
        record: the batch.
        library: the node's.
        send: answers its requests.
        room: returns how many requests may be in flight.
        longest: bytes a line may have.
        notice: told what people should know.

    Attributes:
        again_at: when it may be tried again, if it has stopped because of something that nobody foresaw.
    """

    def __init__(
        self,
        record: BatchRecord,
        library: Library,
        *,
        send: Send,
        room: Callable[[], int],
        longest: int,
        notice: Notice,
    ) -> None:
        self._library = library
        self._notice = notice
        path = library.store.path
        paths = Paths(
            path(record.input_file_id), path(record.output_file_id), path(record.error_file_id)
        )  # fmt: skip
        self.runner = Runner(
            record,
            paths,
            send=send,
            room=room,
            longest=longest,
            changed=self._changed,
            notice=lambda text: notice(text, "warning"),
        )
        self.again_at = 0.0
        self._kept = 0.0
        self._progress = asyncio.Condition()
        self._shipping: dict[str, asyncio.Task[None]] = {}
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Execute no more of it; return when nothing is written any more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def cancel(self, **changes: object) -> BatchRecord:
        """End it with what is done; return the record, with `changes` in it, when it is kept."""
        record = self.runner.record
        self.runner.record = record = msgspec.structs.replace(record, revision=record.revision + 1, **changes)
        await self._changed(record, True)
        self.runner.cancel()
        return record

    def hold(self, holders: Sequence[str]) -> BatchRecord:
        """Have other nodes keep it; return the record."""
        record = self.runner.record
        changed = msgspec.structs.replace(record, holders=tuple(holders), revision=record.revision + 1)
        self.runner.record = self._library.live[record.id] = changed
        self._ship()
        return changed

    async def _run(self) -> None:
        library, runner = self._library, self.runner
        library.live[runner.record.id] = runner.record
        self._ship()
        try:
            outcome = await runner.run()
            await self._finish(outcome)
        except Exception as error:  # seen nowhere else: nobody waits for this task
            self._notice(f"batch {runner.record.id} stopped: {error!r}; it is tried again", "error")
            self.again_at = time.monotonic() + _FAILED
        finally:
            for task in self._shipping.values():
                task.cancel()
            await asyncio.gather(*self._shipping.values(), return_exceptions=True)
            library.live.pop(runner.record.id, None)

    async def _changed(self, record: BatchRecord, important: bool) -> None:
        self._library.executed.note(self._library.live.get(record.id, record), record)
        self._library.live[record.id] = record
        now = time.monotonic()
        if important or now - self._kept > _RECORD_EVERY:
            self._kept = now
            await self._library.keep(record)
        async with self._progress:
            self._progress.notify_all()

    # -- copies

    def _ship(self) -> None:
        """Have a task for each other holder."""
        record = self.runner.record
        for name in record.holders:
            if name != record.owner and name not in self._shipping:
                self._shipping[name] = asyncio.create_task(self._keep_copy(name))

    async def _keep_copy(self, name: str) -> None:
        """Bring results to a holder as they come, for ever."""
        library, files, told, at = self._library, None, -1, 0.0
        incarnation = 0
        while True:
            record = self.runner.record
            peer = library.cluster().peer(name)
            if peer is None or not peer.alive or name not in record.holders:
                files = None
                await asyncio.sleep(_AGAIN)
                continue
            try:
                if files is None or peer.incarnation != incarnation:
                    await library.tell(record, peer)
                    files = self._replicas(record, peer)
                    incarnation, told, at = peer.incarnation, record.revision, time.monotonic()
                await files[0].push(record.output)
                await files[1].push(record.errors_size)
                if told < record.revision and time.monotonic() - at > _RECORD_EVERY:
                    await library.tell(record, peer)
                    told, at = record.revision, time.monotonic()
            except (PeerError, ConflictError):
                files = None
                await asyncio.sleep(_AGAIN)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECORD_EVERY), self._progress:
                    while self.runner.record is record:
                        await self._progress.wait()

    def _replicas(self, record: BatchRecord, peer: object) -> tuple[Replica, Replica]:
        make = self._library.replica
        return make(peer, record.output_file_id, record), make(peer, record.error_file_id, record)  # type: ignore[arg-type]

    # -- the end

    async def _finish(self, outcome: str) -> None:
        library, now = self._library, int(time.time())
        runner = self.runner
        if outcome == "completed":
            runner.record = record = msgspec.structs.replace(
                runner.record, status="finalizing", finalizing_at=now, revision=runner.record.revision + 1
            )
            await self._changed(record, True)
        record = runner.record
        # The files first: a batch that is known as finished has them, wherever it is known.
        for file_id, size, name in (
            (record.output_file_id, record.output, "output"),
            (record.error_file_id, record.errors_size, "errors"),
        ):
            if size:
                file = FileRecord(
                    id=file_id,
                    created_at=now,
                    key=record.key,
                    owner=record.owner,
                    holders=record.holders,
                    generation=record.generation,
                    bytes=size,
                    filename=f"{record.id}_{name}.jsonl",
                    purpose="batch_output",
                    expires_at=now + record.output_expires_after if record.output_expires_after else None,
                )
                await library.keep(file)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_COPIES):
                        await library.spread(file, file.holders)
        times = {"completed": "completed_at", "expired": "expired_at", "cancelled": "cancelled_at"}
        runner.record = record = msgspec.structs.replace(
            runner.record,
            status=outcome,
            revision=runner.record.revision + 1,
            **{times[outcome]: int(time.time())},
        )
        await self._changed(record, True)
        await library.spread(record, record.holders)
        self._notice(
            f"batch {record.id} is {outcome}: {record.completed} of {record.total} requests answered, "
            f"{record.failed} failed",
            "info",
        )


class Works:
    """All batches that this node executes.

    Args:
        library: the node's.
        send: answers requests.
        room: returns how many requests may be in flight, of all batches together.
        longest: bytes a line may have.
        notice: told what people should know.
    """

    def __init__(
        self, library: Library, send: Send, room: Callable[[], int], longest: int, notice: Notice
    ) -> None:
        self._library = library
        self._send = send
        self._room = room
        self._longest = longest
        self._notice = notice
        self._works: dict[str, Work] = {}

    def get(self, id_: str) -> Work | None:
        """Return a batch under way."""
        work = self._works.get(id_)
        return None if work is None or work.task.done() else work

    def start(self, record: BatchRecord) -> None:
        """Execute a batch, unless it is under way."""
        last = self._works.get(record.id)
        if last is not None and time.monotonic() < last.again_at:
            return
        if record.is_open and self.get(record.id) is None:
            self._works = {id_: work for id_, work in self._works.items() if not work.task.done()}
            self._works[record.id] = Work(
                record,
                self._library,
                send=self._send,
                room=self._share,
                longest=self._longest,
                notice=self._notice,
            )

    async def lose(self, id_: str) -> None:
        """Execute a batch no more: somebody else does."""
        work = self._works.pop(id_, None)
        if work is not None and not work.task.done() and work.task is not asyncio.current_task():
            await work.stop()

    async def stop(self) -> None:
        """Stop everything; whoever starts next goes on where it ended."""
        works, self._works = self._works, {}
        await asyncio.gather(*(work.stop() for work in works.values()))

    def _share(self) -> int:
        under_way = sum(not work.task.done() for work in self._works.values())
        return -(-self._room() // max(1, under_way))
