"""What a node's workers share so that requests find the caches that have their prompts: one memory map, no locks.

Beside `shoal.gateway.counters`, made and handed on the same way::

    work        rows 0..W-1 of the workers, row W of the other nodes' gateways; one column per engine slot: bytes of
                prompt under way to an engine that no answer has begun for
    engines     3 rows that the node process writes: requests from outside, requests queued, KV cache use, by slot
    news        W rings that the workers write: blocks an engine was not known to have, for the other nodes
    table       which engine has which prompt blocks (`shoal.routing.prefix_table`), all that is left of the map

Memory that was never written takes no room: the map grows up to its size with the prompts there are.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from shoal.gateway.counters import SLOTS
from shoal.routing.prefix_table import PrefixTable

_CELL: Final = 8
_RING: Final = 16 * 1024  # cells of a ring: some thousand prompts between two looks of the node process
_RING_ROW: Final = 1 + _RING  # the first cell: cells written so far
_MARK: Final = 1 << 63  # the cell that begins a record: engine slot and number of the hashes that follow


def _cells(workers: int) -> int:
    return (workers + 1) * SLOTS + 3 * SLOTS + workers * _RING_ROW


def create(workers: int, memory: int) -> int:
    """Return the descriptor of a new map for so many workers, all zero.

    Args:
        workers: rows for workers.
        memory: bytes for the table of prompt blocks.
    """
    fd = os.memfd_create("shoal-affinity", os.MFD_CLOEXEC)
    os.ftruncate(fd, _cells(workers) * _CELL + max(memory // _CELL, PrefixTable.smallest) * _CELL)
    return fd


class Affinity:
    """The map, in any process.

    Args:
        fd: descriptor of the map; may be closed afterwards.
        workers: as given to `create`.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.workers = workers
        cells = memoryview(mmap.mmap(fd, 0)).cast("B")
        head = cells[: _cells(workers) * _CELL].cast("q")
        rows, end = (workers + 1) * SLOTS, (workers + 4) * SLOTS
        self._work = head[:rows]
        self.outside, self.waiting, self.kv_permille = (
            head[rows + SLOTS * row : rows + SLOTS * (row + 1)] for row in range(3)
        )
        self._rings = head[end:]
        self.table = PrefixTable(cells[len(head) * _CELL :].cast("Q"))

    @classmethod
    def private(cls) -> Affinity:
        """Return a small map of this process alone."""
        fd = create(1, 1 << 20)
        try:
            return cls(fd, 1)
        finally:
            os.close(fd)

    # Open work.

    def work(self, slot: int) -> memoryview:
        """Return the cells of an engine, one per row: their sum is the work on its way to it, in bytes of prompt."""
        return self._work[slot::SLOTS]

    def work_row(self, worker: int) -> memoryview:
        """Return the writable cells of one worker (the row after the last worker's: of all other nodes)."""
        return self._work[worker * SLOTS : (worker + 1) * SLOTS]

    def clear(self, worker: int) -> None:
        """Zero the row of a worker that has died, or starts."""
        self.work_row(worker)[:] = memoryview(array("q", bytes(SLOTS * _CELL)))

    def set_remote(self, work: Mapping[int, int]) -> None:
        """Write what other nodes' gateways have under way, by slot; slots not named get 0."""
        _write(self.work_row(self.workers), work)

    def own(self) -> bytes:
        """Return a copy of all cells of this node's own workers, to see by it whether anything has changed."""
        return self._work[: self.workers * SLOTS].tobytes()

    def local(self, slot: int) -> int:
        """Return what this node's own workers have under way to an engine."""
        return sum(self.work(slot)[: self.workers])

    # What engines say.

    def set_engines(self, engines: Mapping[int, tuple[int, int, int]]) -> None:
        """Write (requests from outside, requests queued, KV cache use in thousandths) by slot; others get 0."""
        for index, row in enumerate((self.outside, self.waiting, self.kv_permille)):
            _write(row, {slot: numbers[index] for slot, numbers in engines.items()})

    # News.

    def teller(self, worker: int) -> Callable[[int, Sequence[int]], None]:
        """Return what puts an engine's slot and blocks it was not known to have into a worker's ring."""
        ring = self._rings[worker * _RING_ROW : (worker + 1) * _RING_ROW]
        news = ring[1:].cast("B").cast("Q")

        def tell(slot: int, hashes: Sequence[int]) -> None:
            count = len(hashes)
            at = ring[0] % _RING
            if (
                at + 1 + count > _RING
            ):  # records do not wrap around: the rest of the ring stays empty this time
                if count >= _RING:
                    return
                news[at] = 0
                ring[0] += _RING - at
                at = 0
            news[at] = _MARK | slot << 32 | count
            news[at + 1 : at + 1 + count] = memoryview(array("Q", hashes))
            ring[0] += 1 + count

        return tell

    def listener(self) -> Callable[[], Iterator[tuple[int, list[int]]]]:
        """Return what yields the records of all rings that came since it was last called: engine slot, hashes.

        What was overwritten before it could be read is left out.
        """
        rings = [self._rings[row * _RING_ROW : (row + 1) * _RING_ROW] for row in range(self.workers)]
        news = [ring[1:].cast("B").cast("Q") for ring in rings]
        read = [ring[0] for ring in rings]

        def listen() -> Iterator[tuple[int, list[int]]]:
            for worker, ring in enumerate(rings):
                written = ring[0]
                if written - read[worker] > _RING:
                    read[worker] = written
                while read[worker] < written:
                    at = read[worker] % _RING
                    mark = news[worker][at]
                    if not mark & _MARK or at + 1 + (mark & 0xFFFFFFFF) > _RING:
                        read[worker] += _RING - at
                        continue
                    count = mark & 0xFFFFFFFF
                    hashes = news[worker][at + 1 : at + 1 + count].tolist()
                    read[worker] += 1 + count
                    if ring[0] - read[worker] + 1 + count <= _RING:
                        yield mark >> 32 & 0x7FFFFFFF, hashes
                    else:
                        read[worker] = ring[0]
                        break

        return listen


def _write(row: memoryview, numbers: Mapping[int, int]) -> None:
    new = array("q", bytes(SLOTS * _CELL))
    for slot, number in numbers.items():
        new[slot] = number
    row[:] = memoryview(new)
