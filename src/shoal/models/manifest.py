"""What files a model is: sizes and SHA-256 of everything in its directory, read once and remembered.

A file whose size, modification time and inode are as they were has the content it had (so say git's index and rsync,
too): a restart does not read 140 GB again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from shoal.files import write_whole
from shoal.models.errors import ModelError

MOST_FILES: Final = 10_000
_BLOCK: Final = 8 * 1024 * 1024


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file: its size in bytes and its SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The files of a model, by their path below its directory, with ``/`` between folders."""

    files: dict[str, Entry] = {}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def digest(self) -> str:
        """Return 64 hexadecimal digits that are equal for equal files: what `model.sha256` pins.

        It is the SHA-256 of lines as ``sha256sum`` writes them, in order of their names.
        """
        lines = [f"{entry.sha256}  {name}\n" for name, entry in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Known(msgspec.Struct, frozen=True, array_like=True):
    """The hash of a file as it was seen: size, modification time (ns), inode, and SHA-256."""

    size: int
    modified: int
    inode: int
    sha256: str


class Stopped(Exception):  # noqa: N818 - that is what it was
    """Hashing was stopped before its end."""


class Hashes:
    """The hashes of files that were read before, in a file.

    Args:
        store: where they are kept; what cannot be read or written there is only read again next time.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        try:
            self._known = msgspec.json.decode(store.read_bytes(), type=dict[str, Known])
        except (OSError, msgspec.MsgspecError):
            self._known = {}

    def of(self, file: Path, stop: Callable[[], bool] = lambda: False) -> str:
        """Return the SHA-256 of a file, reading it only if it is not the one it was.

        Raises:
            OSError: it cannot be read.
            Stopped: `stop` returned true.
        """
        before = file.stat()
        known = self._known.get(str(file))
        if known is not None and (known.size, known.modified, known.inode) == _stamp(before):
            return known.sha256
        sha256 = _read(file, stop)
        # One that is being written meanwhile is read again next time.
        if _stamp(file.stat()) == _stamp(before):
            self._known[str(file)] = Known(*_stamp(before), sha256)
        return sha256

    def note(self, file: Path, sha256: str) -> None:
        """Take note of the hash of a file that was just written."""
        self._known[str(file)] = Known(*_stamp(file.stat()), sha256)

    def save(self) -> None:
        """Keep what is known of files that are still there."""
        self._known = {name: known for name, known in self._known.items() if Path(name).exists()}
        with contextlib.suppress(OSError):
            write_whole(self._store, msgspec.json.encode(self._known))


def names_in(directory: Path) -> list[str]:
    """Return the files that a model's directory holds, hidden ones and those in hidden folders left out.

    Raises:
        ModelError: there are none, or far too many for a model.
    """
    found = []
    for folder, below, files in os.walk(directory, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            (Path(folder) / name).relative_to(directory).as_posix()
            for name in sorted(files)
            if not name.startswith(".") and (Path(folder) / name).is_file()
        ]
        if len(found) > MOST_FILES:
            raise ModelError(f"{directory} holds more than {MOST_FILES:,} files: is it a model's directory?")
    if not found:
        raise ModelError(f"{directory} holds no files")
    return found


def manifest_of(directory: Path, hashes: Hashes, stop: Callable[[], bool] = lambda: False) -> Manifest:
    """Return the manifest of a model.

    Args:
        directory: the model's.
        hashes: what is known from before; completed and saved.
        stop: asked now and then whether to give up.

    Raises:
        ModelError: its files cannot be read.
        Stopped: `stop` returned true.
    """
    entries = {}
    try:
        for name in names_in(directory):
            file = directory / name
            sha256 = hashes.of(file, stop)
            entries[name] = Entry(file.stat().st_size, sha256)
    except OSError as error:
        raise ModelError(f"{error.filename or directory} cannot be read: {error.strerror}") from None
    finally:
        hashes.save()
    return Manifest(entries)


def differences(found: Mapping[str, Entry], right: Mapping[str, Entry]) -> list[str]:
    """Return the names of files that are not as they should be, those that should not be there included."""
    return sorted(name for name in found.keys() | right.keys() if found.get(name) != right.get(name))


def _read(file: Path, stop: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            if stop():
                raise Stopped
            digest.update(buffer[:size])  # lets other threads run
    return digest.hexdigest()


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
