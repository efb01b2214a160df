"""Which of many ids came before, without holding them: what is kept for ever is a bit for each line.

Ten gigabytes are millions of lines: the digests of their ids go into buckets, which go to temporary files when they
grow, and each bucket is looked through alone, a large one in several passes.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import xxhash

_BUCKETS = 64
_HELD = 64 * 1024  # bytes of a bucket before it goes to a file
_ENTRY = struct.Struct("<16sQ")
_AT_ONCE = 50_000  # digests held at once, some hundred bytes each


class Bits:
    """A set of line numbers, at a bit for each line up to the highest."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        byte, bit = number >> 3, 1 << (number & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte - len(self._bits) + 1024))
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        byte = number >> 3
        return byte < len(self._bits) and bool(self._bits[byte] & 1 << (number & 7))


class Digests:
    """Ids with the numbers of their lines. Use it in a ``with`` statement: it has files.

    Args:
        directory: for temporary files, which have no names there.
    """

    def __init__(self, directory: Path) -> None:
        self._buckets = [_Bucket(directory) for _ in range(_BUCKETS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for bucket in self._buckets:
            bucket.close()

    def add(self, id_: str, number: int) -> None:
        """Add an id."""
        digest = xxhash.xxh3_128_digest(id_.encode("utf-8", "surrogatepass"))
        self._buckets[digest[0] % _BUCKETS].add(digest, number)

    def repeated(self, *, known: int | None = None) -> Bits:
        """Return the numbers of ids that were added before.

        Args:
            known: only those count as added before that were added with this number.
        """
        found = Bits()
        for bucket in self._buckets:
            passes = 1 + bucket.count // _AT_ONCE
            for turn in range(passes):
                seen: set[bytes] = set()
                for digest, number in bucket.entries():
                    if digest[1] % passes != turn:
                        continue
                    if number != known and digest in seen:
                        found.add(number)
                    elif known is None or number == known:
                        seen.add(digest)
        return found


class _Bucket:
    def __init__(self, directory: Path) -> None:
        self.count = 0
        self._directory = directory
        self._held = bytearray()
        self._file: BinaryIO | None = None

    def add(self, digest: bytes, number: int) -> None:
        self.count += 1
        self._held += _ENTRY.pack(digest, number)
        if len(self._held) >= _HELD:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by `close`
            self._file.write(self._held)
            self._held.clear()

    def entries(self) -> Iterable[tuple[bytes, int]]:
        if self._file is not None:
            self._file.seek(0)
            while piece := self._file.read(_ENTRY.size * 4096):
                yield from _ENTRY.iter_unpack(piece)
        yield from _ENTRY.iter_unpack(self._held)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
