"""Data files: bytes are added at their end and reach the disk before anybody is told. Synchronous."""

from __future__ import annotations

import os
from pathlib import Path

from shoal.batch.errors import disk_errors

_PIECE = 1 << 16


def length(path: Path) -> int:
    """Return the bytes in a file, 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def write_at(path: Path, offset: int, data: bytes, *, sync: bool = True) -> int:
    """Have a file end with `data` from `offset` on; return its length.

    Args:
        path: the file; made if it is not there.
        offset: at most its length. What is behind it is given up.
        data: the bytes.
        sync: return only when they are on the disk.

    Raises:
        DiskFullError: there is no room; the file is as it was, up to `offset`.
        ValueError: it is shorter than `offset`.
    """
    with disk_errors(str(path.parent)):
        new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size < offset:
                raise ValueError(f"{path} has {size} bytes, not {offset}")
            if size > offset:
                os.ftruncate(fd, offset)
            try:
                _write(fd, offset, data)
            except OSError:
                os.ftruncate(fd, offset)
                raise
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        if new and sync:
            sync_directory(path.parent)
    return offset + len(data)


def _write(fd: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]


def sync_file(path: Path) -> None:
    """Return when a file is on the disk."""
    with disk_errors(str(path.parent)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Return when the names of the files in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def cut(path: Path, most: int) -> int:
    """Shorten a file to `most` bytes if it is longer; return its length."""
    size = length(path)
    if size > most:
        os.truncate(path, most)
        size = most
    return size


def read(path: Path, offset: int, most: int) -> bytes:
    """Return up to `most` bytes from `offset` on."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(most)


def free(path: Path) -> int:
    """Return the bytes that can still be written to the disk a directory is on."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
