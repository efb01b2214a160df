"""The files of a model while they are being copied: beside the model's directory, and complete at once.

Ranges are written where they belong, in any order, and a journal says which are there, so that a copy that was
interrupted goes on. Nothing of it is believed: a file counts when its hash is right.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import Final

import msgspec

from shoal.models.errors import ModelError
from shoal.models.manifest import Manifest

PIECE: Final = 8 * 1024 * 1024
"""Bytes that are asked for at once."""
_SPARE: Final = 64 * 1024 * 1024  # bytes to leave free on the disk
_BLOCK: Final = 4 * 1024 * 1024


class NoSpaceError(ModelError):
    """The disk is full, or would be."""


class Piece(msgspec.Struct, frozen=True, order=True):
    """A range of a file: name, first byte, number of bytes."""

    name: str
    start: int
    size: int


class Partial:
    """A model that is being copied.

    Args:
        target: the model's directory; what is wrong in it is replaced, what is right stays.
        manifest: all files it should have.
        wanted: names of those to copy.

    Raises:
        NoSpaceError: there is not enough room.
        ModelError: the directory beside cannot be made.
    """

    def __init__(self, target: Path, manifest: Manifest, wanted: list[str]) -> None:
        self._target = target
        self._manifest = manifest
        self._wanted = wanted
        self.directory = target.parent / f".{target.name}.shoal-partial"
        self._journal = self.directory / ".journal"
        self._lock = threading.Lock()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._done = self._resume()
            self._require_space()
            for name in wanted:
                file = self.directory / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        except OSError as error:
            raise self._failure(error) from error

    def missing(self) -> list[Piece]:
        """Return the pieces that are still to be copied, in order."""
        return [p for name in self._wanted for p in pieces(name, self._size(name)) if p not in self._done]

    def whole(self) -> list[str]:
        """Return the names of files to copy of which every piece is there."""
        return [n for n in self._wanted if all(p in self._done for p in pieces(n, self._size(n)))]

    @property
    def copied(self) -> int:
        """Bytes that are there."""
        return sum(piece.size for piece in list(self._done))

    @property
    def size(self) -> int:
        """Bytes to copy in all."""
        return sum(map(self._size, self._wanted))

    def write(self, piece: Piece, offset: int, data: bytes) -> None:
        """Write bytes of a piece, `offset` bytes from its start.

        Raises:
            NoSpaceError: the disk is full.
            ModelError: they cannot be written.
        """
        try:
            descriptor = os.open(self.directory / piece.name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(descriptor, view, piece.start + offset)
                    offset, view = offset + written, view[written:]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._failure(error) from error

    def done(self, piece: Piece) -> bool:
        """Note that a piece is there; return whether all of its file is."""
        with self._lock:
            self._done.add(piece)
            try:
                with self._journal.open("ab") as journal:
                    journal.write(msgspec.json.encode(piece) + b"\n")
            except OSError as error:
                raise self._failure(error) from error
            return all(p in self._done for p in pieces(piece.name, self._size(piece.name)))

    def check(self, name: str) -> bool:
        """Return whether a file has the hash it should have; one that has not is deleted, to be copied again.

        Raises:
            ModelError: it cannot be read.
        """
        file, entry = self.directory / name, self._manifest.files[name]
        try:
            digest = hashlib.sha256()
            with file.open("rb", buffering=0) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
            if digest.hexdigest() == entry.sha256 and file.stat().st_size == entry.size:
                return True
            self._drop(name)
        except OSError as error:
            raise self._failure(error) from error
        return False

    def finish(self) -> None:
        """Put the files where they belong; to be called when all of them are there and checked.

        Raises:
            ModelError: they cannot be moved.
        """
        try:
            for name in self._wanted:
                with (self.directory / name).open("rb") as stream:
                    os.fsync(stream.fileno())
            self._journal.unlink(missing_ok=True)
            if not self._target.exists():
                self.directory.replace(self._target)
                return
            for name in self._wanted:
                into = self._target / name
                into.parent.mkdir(parents=True, exist_ok=True)
                (self.directory / name).replace(into)
            shutil.rmtree(self.directory, ignore_errors=True)
        except OSError as error:
            raise self._failure(error) from error

    def discard(self) -> None:
        """Give the space back."""
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- helpers

    def _size(self, name: str) -> int:
        return self._manifest.files[name].size

    def _resume(self) -> set[Piece]:
        """Return what an earlier copy of the same files has left, and begin a journal if there was none."""
        first = self._manifest.digest().encode()
        lines = self._journal.read_bytes().splitlines() if self._journal.exists() else []
        if lines[:1] != [first]:
            shutil.rmtree(self.directory)
            self.directory.mkdir(parents=True)
            self._journal.write_bytes(first + b"\n")
            return set()
        found: set[Piece] = set()
        for line in lines[1:]:
            try:
                piece = msgspec.json.decode(line, type=Piece)
            except msgspec.MsgspecError:
                continue  # the last line of a process that was killed
            if piece.name in self._wanted and (self.directory / piece.name).exists():
                found.add(piece)
        return found

    def _drop(self, name: str) -> None:
        with self._lock:
            (self.directory / name).unlink(missing_ok=True)
            (self.directory / name).touch()
            self._done = {piece for piece in self._done if piece.name != name}
            kept = [self._manifest.digest().encode(), *map(msgspec.json.encode, sorted(self._done))]
            self._journal.write_bytes(b"\n".join(kept) + b"\n")

    def _require_space(self) -> None:
        need, free = self.size - self.copied, shutil.disk_usage(self.directory).free
        if need + _SPARE > free:
            raise NoSpaceError(
                f"{self._target.parent} has room for {free / 1e9:.1f} GB, {need / 1e9:.1f} GB are to be copied"
            )

    def _failure(self, error: OSError) -> ModelError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceError(f"the disk of {self._target.parent} is full")
        return ModelError(f"{error.filename or self.directory} cannot be written: {error.strerror}")


def pieces(name: str, size: int) -> list[Piece]:
    """Return the pieces of a file; an empty one has one piece of no bytes."""
    starts = range(0, size, PIECE) if size else (0,)
    return [Piece(name, start, min(PIECE, size - start)) for start in starts]
