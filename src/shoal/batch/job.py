"""`shoal batch run`: an input file, an output file, and a note beside it of the batch that is under way between them.

Run again, whatever ended the last run, it goes on with that batch; where there is none, it submits the lines that the
output does not have yet.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shoal.batch.client import Client, RefusedError
from shoal.batch.digests import Bits, Digests
from shoal.batch.lines import custom_id_of, json_error, numbered
from shoal.files import write_whole

LONGEST_LINE = 64 << 20
"""Bytes of a line of the input that are looked at."""

_POLL = 0.5  # s
_OUTPUT = 0  # in place of the number of a line of the input, which are from 1
_ENDED = ("completed", "failed", "expired", "cancelled")
_RUN = "shoal_run"  # name in a batch's metadata
_LOOKED_AT = 300  # batches among which one is sought whose id could not be written down


class JobError(Exception):
    """It cannot be done; ``str()`` says why, for people."""


class Note(msgspec.Struct, frozen=True):
    """What is under way.

    Attributes:
        run: names this attempt, in the batch's metadata, too.
        size: of the input, bytes.
        modified: when it was last changed, ns.
        base: bytes the output had before: what the batch brings goes behind them, also when that is done twice.
        batch: id of the batch; "" as long as it is not known.
    """

    run: str
    size: int
    modified: int
    base: int = 0
    batch: str = ""


class Result(msgspec.Struct, frozen=True):
    """How it ended.

    Attributes:
        status: of the batch; ``nothing`` where there was nothing to do.
        completed: lines answered, by this batch.
        failed: lines that were not.
        errors: file with those, None if there are none.
    """

    status: str
    completed: int = 0
    failed: int = 0
    errors: Path | None = None


class Job:
    """One input and its output.

    Args:
        source: the input.
        target: the output.
        client: of the cluster.
        endpoint: that the lines are for; "" for that of the first one.
        window: in which the batch must be done.
        say: told what people should know.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        client: Client,
        *,
        endpoint: str = "",
        window: str = "24h",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._target = target
        self._client = client
        self._endpoint = endpoint
        self._window = window
        self._say = say
        self._note_path = target.with_name(target.name + ".shoal")
        self._errors = target.with_name(target.name + ".errors.jsonl")
        self.batch_id = ""

    def run(self, progress: Callable[[dict[str, Any]], None]) -> Result:
        """Do what is left, and return when it is done.

        Args:
            progress: called with the batch now and then.

        Raises:
            JobError: the files are not what they should be.
            RefusedError: the cluster refused something.
            NobodyAnswersError: no node answered for long.
        """
        batch = self._under_way()
        if batch is None:
            batch = self._submit()
            if batch is None:
                return Result("nothing")
        self.batch_id = batch["id"]
        while batch["status"] not in _ENDED:
            progress(batch)
            time.sleep(_POLL)
            batch = self._client.batch(self.batch_id)
        progress(batch)
        return self._collect(batch)

    # -- the batch that is under way

    def _under_way(self) -> dict[str, Any] | None:
        """Return the batch that an earlier run has submitted, None if there is none."""
        note = self._note()
        if note is None:
            return None
        found = self._source.stat()
        if (note.size, note.modified) != (found.st_size, found.st_mtime_ns):
            raise JobError(
                f"{self._source} has changed since a batch was made of it ({note.batch or 'unknown id'}); remove "
                f"{self._note_path} to forget that one and submit what {self._target} does not have"
            )
        if note.batch:
            try:
                batch = self._client.batch(note.batch)
            except RefusedError as error:
                if error.status != 404:
                    raise
                self._say(f"{note.batch} is not known any more; what is missing is submitted anew")
                return None
            self._say(f"going on with {note.batch}")
            return batch
        for batch in self._client.batches(_LOOKED_AT):
            if (batch["metadata"] or {}).get(_RUN) == note.run:
                self._write_note(msgspec.structs.replace(note, batch=batch["id"]))
                self._say(f"going on with {batch['id']}")
                return batch
        return None

    def _note(self) -> Note | None:
        try:
            return msgspec.json.decode(self._note_path.read_bytes(), type=Note)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _submit(self) -> dict[str, Any] | None:
        """Make a batch of the lines that the output does not have; None if it has all of them."""
        endpoint = self._endpoint or _endpoint_of(self._source)
        found = self._source.stat()
        base = self._target.stat().st_size if self._target.exists() else 0
        note = Note(secrets.token_hex(12), found.st_size, found.st_mtime_ns, base)
        with self._rest() as (path, lines):
            if not lines:
                return None
            self._write_note(note)
            self._say(f"uploading {path.stat().st_size / 1e6:,.1f} MB")
            file_id = self._client.upload(path, self._source.name)
        batch = self._client.create(file_id, endpoint, self._window, {_RUN: note.run})
        self._write_note(msgspec.structs.replace(note, batch=batch["id"]))
        self._say(f"submitted as {batch['id']}")
        return batch

    @contextlib.contextmanager
    def _rest(self) -> Iterator[tuple[Path, int]]:
        """Yield a file with the lines that are left, numbered as in the input, and how many (1 for all of them)."""
        done = self._answered()
        if not done.count:
            yield self._source, 1
            return
        with tempfile.NamedTemporaryFile(dir=self._target.parent, prefix=".shoal-rest-") as out:
            left, last = 0, 0
            with self._source.open("rb") as file:
                for number, text in numbered(file, LONGEST_LINE):
                    if text is None or number in done:
                        continue
                    out.write(b"\n" * (number - last - 1) + text + b"\n")
                    left, last = left + 1, number
            out.flush()
            if left:
                self._say(f"{done.count:,} lines are answered already, {left:,} are left")
            yield Path(out.name), left

    def _answered(self) -> Bits:
        """Return the numbers of the input's lines whose ids the output has."""
        with Digests(self._target.parent) as ids:
            if not _add_answered(self._target, ids):
                return Bits()
            with self._source.open("rb") as file:
                for number, text in numbered(file, LONGEST_LINE):
                    custom_id = custom_id_of(text)
                    if custom_id is not None:
                        ids.add(custom_id, number)
            return ids.repeated(known=_OUTPUT)

    def _write_note(self, note: Note) -> None:
        write_whole(self._note_path, msgspec.json.encode(note), sync=True)

    # -- the end

    def _collect(self, batch: dict[str, Any]) -> Result:
        """Add what has come out to the output file."""
        counts, note = batch["request_counts"], self._note()
        if batch["output_file_id"]:
            new = self._target.with_name(f".{self._target.name}.new")
            new.unlink(missing_ok=True)
            if self._target.exists() and note is not None:
                _copy(self._target, new, note.base)
            self._client.download(batch["output_file_id"], new)
            new.replace(self._target)
        elif not self._target.exists():
            self._target.touch()
        self._errors.unlink(missing_ok=True)
        if batch["error_file_id"]:
            self._client.download(batch["error_file_id"], self._errors)
        self._note_path.unlink(missing_ok=True)
        errors = self._errors if batch["error_file_id"] else None
        return Result(batch["status"], counts["completed"], counts["failed"], errors)


class _Answered(msgspec.Struct):
    custom_id: str | None = None


_decode_answered = msgspec.json.Decoder(_Answered).decode


def _add_answered(path: Path, ids: Digests) -> bool:
    """Add the ids that an output file has, with the number `_OUTPUT`; return whether there are any."""
    found = False
    if path.exists():
        with path.open("rb") as file:
            for text in file:
                try:
                    custom_id = _decode_answered(text).custom_id
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise JobError(
                        f"{path} is there and is no output of a batch; name another file"
                    ) from None
                if custom_id is not None:
                    ids.add(custom_id, _OUTPUT)
                    found = True
    return found


class _Url(msgspec.Struct):
    url: str | None = None


def _endpoint_of(path: Path) -> str:
    """Return the path that the first good line of an input names."""
    bad = ""
    with path.open("rb") as file:
        for number, text in numbered(file, LONGEST_LINE):
            problem = json_error(text)
            if text is not None and problem is None:
                url = msgspec.json.decode(text, type=_Url).url
                if url:
                    return url
                problem = "it has no `url`"
            bad = bad or f"line {number}: {problem}"
            if number > 1000:
                break
    raise JobError(f"{path} is no input of a batch: {bad or 'it is empty'}")


def _copy(source: Path, target: Path, size: int) -> None:
    """Copy the first `size` bytes of a file."""
    with source.open("rb") as old, target.open("wb") as new:
        while size > 0 and (piece := old.read(min(1 << 20, size))):
            new.write(piece)
            size -= len(piece)
