"""Copies a model from several nodes at once: pieces from whoever has them, checked, resumed, no faster than allowed.

Blocking, with threads: reading sockets, writing and hashing all let other threads run. To be called in one of its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from shoal.models.errors import ModelError
from shoal.models.partial import NoSpaceError, Partial, Piece

_MOST_FAULTS: Final = 3
"""Times in a row a source may fail before it is left alone for this copy, and times a file may come out wrong."""
_PATIENCE: Final = 30.0
"""Seconds without any source after which a copy gives up, to be resumed."""
_BREATH: Final = 0.2


class SourceError(Exception):
    """A source does not give what it was asked for."""


class Source(Protocol):
    """Somebody who has the files."""

    @property
    def name(self) -> str:
        """Name for people."""
        ...

    def read(self, piece: Piece) -> Iterator[bytes]:
        """Yield the bytes of a piece.

        Raises:
            SourceError: it does not give them.
        """
        ...


class Progress(msgspec.Struct, frozen=True):
    """How far a copy has got.

    Attributes:
        copied: bytes that are there.
        size: bytes in all.
        rate: bytes per second, lately.
        sources: names of those it comes from.
    """

    copied: int
    size: int
    rate: float
    sources: tuple[str, ...]

    def __str__(self) -> str:
        share = 100 * self.copied / self.size if self.size else 100
        left = f", {(self.size - self.copied) / self.rate:.0f} s left" if self.rate > 0 else ""
        count = len(self.sources)
        where = f"{count} node{'s' * (count != 1)}" if count else "nobody at the moment"
        return f"copies its files from {where}: {share:.0f} % of {self.size / 1e6:,.0f} MB{left}"


class Pace:
    """Holds threads back so that together they take no more than so many bytes per second; None for no limit."""

    def __init__(self, rate: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait_for(self, size: int) -> float:
        """Return the seconds to wait before the next read, after `size` bytes were taken."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + size / self._rate
            return self._free_at - now


class Copy:
    """One copy of a model, or of the files of it that are missing.

    Args:
        partial: where it goes.
        sources: returns who has the files now; asked again whenever there is nobody left.
        pace: limits it.
        stop: set to give up; what is there stays, to go on with.
        connections: pieces that are asked for at the same time.
    """

    def __init__(
        self,
        partial: Partial,
        sources: Callable[[], Sequence[Source]],
        pace: Pace,
        stop: threading.Event,
        connections: int = 4,
    ) -> None:
        self._partial = partial
        self._sources = sources
        self._pace = pace
        self._stop = stop
        self._connections = connections
        self._todo: deque[Piece] = deque(partial.missing())
        self._open = 0
        self._lock = threading.Condition()
        self._faults: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        self._gave: dict[str, set[str]] = {}
        self._error: ModelError | None = None
        self._turn = 0
        self._seen = self._began = time.monotonic()
        self._begun_with = partial.copied
        self.served: Counter[str] = Counter()
        """Bytes by the name of the source that gave them."""

    def run(self) -> None:
        """Copy everything and put it in its place.

        Raises:
            NoSpaceError: the disk is full; the space is given back.
            ModelError: nobody gives the files, or what they give is wrong; or it was stopped.
        """
        whole = {piece.name for piece in self._todo}
        for name in self._partial.whole():
            if name not in whole and not self._partial.check(name):  # left by an earlier copy
                self._todo.extend(p for p in self._partial.missing() if p.name == name)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if isinstance(self._error, NoSpaceError):
            self._partial.discard()
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise ModelError("the copy was stopped")
        self._partial.finish()

    def progress(self) -> Progress:
        """Return how far it has got."""
        copied, passed = self._partial.copied, time.monotonic() - self._began
        rate = (copied - self._begun_with) / passed if passed > 0 else 0.0
        names = tuple(sorted(s.name for s in self._sources() if self._faults[s.name] < _MOST_FAULTS))
        return Progress(copied, self._partial.size, rate, names)

    # -- threads

    def _work(self) -> None:
        try:
            while (piece := self._take()) is not None:
                source = self._pick(piece)
                if source is None:
                    self._give_back(piece)
                    self._stop.wait(_BREATH)
                    continue
                try:
                    self._fetch(piece, source)
                except SourceError:
                    self._faults[source.name] += 1
                    self._give_back(piece)
                else:
                    self._faults[source.name] = 0
                    self._finished(piece)
        except ModelError as error:
            self._fail(error)
        except Exception as error:
            self._fail(ModelError(f"the copy failed: {error!r}"))
            raise

    def _take(self) -> Piece | None:
        """Return a piece to copy, None when all is done or given up."""
        with self._lock:
            while not self._todo and self._open and not self._over():
                self._lock.wait(_BREATH)
            if not self._todo or self._over():
                return None
            self._open += 1
            return self._todo.popleft()

    def _over(self) -> bool:
        return self._error is not None or self._stop.is_set()

    def _pick(self, piece: Piece) -> Source | None:
        """Return the next source in turn that has not failed too often; for a file that came out wrong always one.

        Raises:
            ModelError: there was none for too long.
        """
        usable = [s for s in self._sources() if self._faults[s.name] < _MOST_FAULTS]
        now = time.monotonic()
        with self._lock:
            if usable:
                self._seen = now
                self._turn += 1
                # All of such a file from one source, and from another one the next time: one of them has it right.
                return usable[(self._wrong[piece.name] or self._turn) % len(usable)]
            if now - self._seen > _PATIENCE:
                raise ModelError(f"no node has given anything for {_PATIENCE:.0f} s")
            self._faults.clear()  # who failed may have come back
        return None

    def _fetch(self, piece: Piece, source: Source) -> None:
        offset = 0
        for data in source.read(piece):
            if offset + len(data) > piece.size or self._over():
                raise SourceError("more than it was asked for")
            self._partial.write(piece, offset, data)
            offset += len(data)
            self.served[source.name] += len(data)
            self._stop.wait(self._pace.wait_for(len(data)))
        if offset != piece.size:
            raise SourceError("less than it was asked for")
        self._gave.setdefault(piece.name, set()).add(source.name)

    def _finished(self, piece: Piece) -> None:
        if self._partial.done(piece) and not self._partial.check(piece.name):
            self._wrong[piece.name] += 1
            givers = ", ".join(sorted(self._gave.pop(piece.name, ())))
            if self._wrong[piece.name] >= _MOST_FAULTS:
                raise ModelError(
                    f"{piece.name} came out wrong {_MOST_FAULTS} times (from {givers}): its hash is another one"
                )
            with self._lock:
                self._todo.extend(p for p in self._partial.missing() if p.name == piece.name)
        with self._lock:
            self._open -= 1
            self._lock.notify_all()

    def _give_back(self, piece: Piece) -> None:
        with self._lock:
            self._todo.append(piece)
            self._open -= 1
            self._lock.notify_all()

    def _fail(self, error: ModelError) -> None:
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()
