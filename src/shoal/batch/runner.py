"""Executes one batch: from wherever its output and error files end, to the last line of its input.

The input is read as it is needed and never held; of what is done one bit per line is kept. Answers are written in
groups, each on the disk before it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from shoal.batch import data
from shoal.batch.digests import Bits
from shoal.batch.errors import DiskFullError
from shoal.batch.lines import BadLine, Line, numbered, parse
from shoal.batch.records import BatchRecord
from shoal.batch.results import answered, done, refused, usage_in
from shoal.batch.sender import Answer
from shoal.batch.survey import survey

Send = Callable[[str, Line, str], Awaitable[Answer]]

_GROUP = 0.05  # s for which answers gather before they are written
_CHUNK_BYTES = 1 << 20  # of the input read at once,
_CHUNK_LINES = 500  # and lines
_OPEN_BYTES = 64 << 20  # of requests in flight, and of answers not yet written
_FULL_PAUSE = 5.0  # s between two attempts to write to a full disk

EXPIRED = "This request could not be executed before the completion window expired."
REPEATED = "Its `custom_id` is that of an earlier line."


class Paths(msgspec.Struct, frozen=True):
    """Where a batch's files are."""

    input: Path
    output: Path
    errors: Path


class Runner:
    """One batch under way.

    Args:
        record: the batch.
        paths: of its files.
        send: returns the final answer to a request.
        room: returns how many requests may be in flight; 0 to wait.
        longest: bytes a line may have.
        changed: called with the record whenever there is progress; with True when the status has changed. It returns
            when that is kept.
        notice: told what people should know.

    Attributes:
        record: as it is now.
    """

    def __init__(
        self,
        record: BatchRecord,
        paths: Paths,
        *,
        send: Send,
        room: Callable[[], int],
        longest: int,
        changed: Callable[[BatchRecord, bool], Awaitable[None]],
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.record = record
        self._paths = paths
        self._send = send
        self._room = room
        self._longest = longest
        self._changed = changed
        self._notice = notice
        self._done = Bits()
        self._flying: set[asyncio.Task[None]] = set()
        self._flying_bytes = 0
        self._written: list[bytes] = []  # results that are not on the disk, for the output file
        self._failed: list[bytes] = []  # and for the error file
        self._unsaved = 0  # bytes of both
        self._landed = asyncio.Event()
        self._news = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopped = False
        self._saving = asyncio.Lock()
        self._repeated = Bits()

    def cancel(self) -> None:
        """Execute no more of it."""
        self._stop.set()

    async def run(self) -> str:
        """Execute what is left; return how it ended: ``completed``, ``expired`` or ``cancelled``."""
        try:
            await self._prepare()
            return await self._work()
        finally:
            self._stopped = True

    async def _prepare(self) -> None:
        """Find out what there is to do, and what of it is done."""
        paths = self._paths

        def look() -> tuple[Any, ...]:
            found = survey(paths.input, self._longest, lambda: self._stopped)
            output, completed, tokens_in, tokens_out = done(paths.output, self._done)
            errors, failed, *_ = done(paths.errors, self._done)
            data.cut(paths.output, output)
            data.cut(paths.errors, errors)
            return found, output, errors, completed, failed, tokens_in, tokens_out

        found, output, errors, completed, failed, tokens_in, tokens_out = await asyncio.to_thread(look)
        self._repeated = found.repeated
        record = self.record
        await self._change(
            status="in_progress" if record.status == "validating" else record.status,
            in_progress_at=record.in_progress_at or int(time.time()),
            total=found.total,
            completed=completed,
            failed=failed,
            output=output,
            errors_size=errors,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        )

    async def _work(self) -> str:
        """Execute what is left; return how that ended."""
        if self.record.status == "cancelling":
            self._stop.set()
        saving = asyncio.create_task(self._save())
        sending = asyncio.create_task(self._dispatch())
        stop = asyncio.create_task(self._stop.wait())
        tasks = {saving, sending, stop}
        try:
            patience = max(0.0, self.record.expires_at - time.time())
            await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in (saving, sending):
                if task.done():
                    task.result()
            outcome = "completed" if sending.done() else "cancelled" if self._stop.is_set() else "expired"
            if not sending.done():
                await _end({sending, *self._flying})
            if outcome == "expired":
                await self._expire()
            await self._saved()
            return outcome
        finally:
            await _end({*tasks, *self._flying})

    async def _dispatch(self) -> None:
        """Send every line that is not done, as there is room."""
        async for line in self._lines():
            if isinstance(line, BadLine):
                await self._has_room(0, sends=False)
                self._land(line.number, None, refused(self.record.id, line))
                continue
            await self._has_room(len(line.body))
            self._flying_bytes += len(line.body)
            task = asyncio.create_task(self._one(line))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)
        while self._flying:
            await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)

    async def _has_room(self, size: int, *, sends: bool = True) -> None:
        while (sends and len(self._flying) >= self._room()) or (
            self._flying and self._flying_bytes + self._unsaved + size > _OPEN_BYTES
        ) or self._unsaved > _OPEN_BYTES:  # fmt: skip
            self._landed.clear()
            with contextlib.suppress(TimeoutError):  # there may be more room without anything having landed
                await asyncio.wait_for(self._landed.wait(), 0.5)

    async def _one(self, line: Line) -> None:
        try:
            answer = await self._send(self.record.endpoint, line, self.record.key)
            text = answered(self.record.id, line, answer.status, answer.request_id, answer.body)
            good = 200 <= answer.status < 300
            self._land(line.number, text if good else None, None if good else text)
        except Exception as error:  # whatever it is, it is about this line, and the others go on
            bad = BadLine(line.number, "internal_error", f"It could not be sent: {error!r}.", line.custom_id)
            self._land(line.number, None, refused(self.record.id, bad))
        finally:
            self._flying_bytes -= len(line.body)
            self._landed.set()

    def _land(self, number: int, output: bytes | None, error: bytes | None) -> None:
        if not self._done.add(number):
            return
        if output is not None:
            self._written.append(output)
        if error is not None:
            self._failed.append(error)
        self._unsaved += len(output or b"") + len(error or b"")
        self._news.set()

    async def _lines(self) -> AsyncIterator[Line | BadLine]:
        """Yield the lines that are not done."""
        with self._paths.input.open("rb") as file:
            lines = numbered(file, self._longest)

            def chunk() -> tuple[list[Line | BadLine], bool]:
                found: list[Line | BadLine] = []
                size = 0
                for number, text in lines:
                    if number not in self._done:
                        line = parse(number, text, self.record.endpoint)
                        if isinstance(line, Line) and number in self._repeated:
                            line = BadLine(
                                number, "duplicate_custom_id", REPEATED, line.custom_id, "custom_id"
                            )
                        found.append(line)
                    size += len(text or b"")
                    if size >= _CHUNK_BYTES or len(found) >= _CHUNK_LINES:
                        return found, False
                return found, True

            over = False
            while not over:
                found, over = await asyncio.to_thread(chunk)
                for line in found:
                    yield line

    async def _expire(self) -> None:
        """Tell of every line that is not done that its time is over."""
        async for line in self._lines():
            text = refused(self.record.id, BadLine(line.number, "batch_expired", EXPIRED, line.custom_id))
            await self._has_room(0, sends=False)
            self._land(line.number, None, text)

    # -- to the disk

    async def _save(self) -> None:
        """Write results in groups, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_GROUP)
            await self._saved()

    async def _saved(self) -> None:
        """Return when all results so far are on the disk."""
        async with self._saving:
            self._news.clear()
            output, errors = b"".join(self._written), b"".join(self._failed)
            counts = len(self._written), len(self._failed)
            tokens = [usage_in(text) for text in self._written]
            if not output and not errors:
                return
            self._written.clear()
            self._failed.clear()
            await self._append(output, errors)
            self._unsaved -= len(output) + len(errors)
            self._landed.set()
            record = self.record
            self.record = msgspec.structs.replace(
                record,
                revision=record.revision + 1,
                completed=record.completed + counts[0],
                failed=record.failed + counts[1],
                output=record.output + len(output),
                errors_size=record.errors_size + len(errors),
                input_tokens=record.input_tokens + sum(t[0] for t in tokens),
                output_tokens=record.output_tokens + sum(t[1] for t in tokens),
            )
        await self._changed(self.record, False)

    async def _append(self, output: bytes, errors: bytes) -> None:
        record, paths, told = self.record, self._paths, False
        for path, offset, text in (
            (paths.output, record.output, output),
            (paths.errors, record.errors_size, errors),
        ):
            while text:
                try:
                    await _finish(asyncio.to_thread(data.write_at, path, offset, text))
                    break
                except DiskFullError as error:
                    if not told:
                        self._notice(f"batch {record.id} waits: {error.message}")
                        told = True
                    await asyncio.sleep(_FULL_PAUSE)

    async def _change(self, **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, revision=self.record.revision + 1, **changes)
        await self._changed(self.record, True)


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _finish(work: Coroutine[Any, Any, Any]) -> None:
    """Return when a thread's work is over, also when this task is cancelled meanwhile."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
