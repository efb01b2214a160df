"""Which engine has which prompt blocks in its cache, as far as the gateways of a cluster know. Pure, over given memory.

A set-associative table over 64-bit integers: a block's hash says which two entries it may have, and of two that are
taken the one unused for longer gives way. So memory is fixed from the start, and every operation takes the same time
whatever the table holds.

All workers of a node write the same memory without locks. Two that write one entry at the same moment may leave a
block with the other's engines: that is a wrong guess about a cache, which routing survives, and nothing else.

Each entry names its engines in a set of 64 bits, by `column`. Beyond 64 engines several share a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

COLUMNS: Final = 64
"""Engines that can be told apart."""

_WAYS: Final = 2  # entries of a set
_WIDTH: Final = 3  # cells of an entry: hash, engines, last use
_SET: Final = _WAYS * _WIDTH
_ENGINES: Final = 1
_USED: Final = 2
_HEAD: Final = (
    72  # cells before the entries: when each column's cache was empty, and the newest of these times
)


def column(slot: int) -> int:
    """Return the bit that stands for the engine with this slot."""
    return 1 << slot % COLUMNS


class Match:
    """How much of a prompt each engine has.

    Attributes:
        places: of the first blocks in the table, as far as all were found.
        ends: (columns, number of blocks): these engines have so many blocks from the beginning on.
    """

    __slots__ = ("ends", "places")

    def __init__(self, places: list[int], ends: list[tuple[int, int]]) -> None:
        self.places = places
        self.ends = ends

    def blocks(self, bit: int) -> int:
        """Return how many blocks of the prompt the engine with this bit has, from the beginning on."""
        for bits, blocks in self.ends:
            if bits & bit:
                return blocks
        return 0


class PrefixTable:
    """The table.

    Args:
        cells: memory of unsigned 64-bit integers, zero at first; at least `smallest` of them.
    """

    smallest: Final = _HEAD + _SET

    def __init__(self, cells: memoryview) -> None:
        self._sets = (len(cells) - _HEAD) // _SET
        self._head = cells[:_HEAD]
        self._cells = cells[_HEAD : _HEAD + self._sets * _SET]

    @property
    def entries(self) -> int:
        """Blocks that fit."""
        return self._sets * _WAYS

    def match(self, hashes: Iterable[int], bits: int) -> Match:
        """Return how many of the blocks each of the engines has.

        Args:
            hashes: of a prompt's blocks, in order.
            bits: columns of the engines in question.
        """
        cells, sets = self._cells, self._sets
        places: list[int] = []
        ends: list[tuple[int, int]] = []
        for hash_ in hashes:
            place = hash_ % sets * 6
            if cells[place] != hash_:
                place += 3
                if cells[place] != hash_:
                    break
            lost = bits & ~cells[place + 1]
            if lost:
                ends.append((lost, len(places)))
                bits ^= lost
                if not bits:
                    break
            places.append(place)
        if bits:
            ends.append((bits, len(places)))
        return self._fresh(places, ends) if places else Match(places, ends)

    def _fresh(self, places: list[int], ends: list[tuple[int, int]]) -> Match:
        """Leave out what an engine had before its cache was last empty. Later blocks were never used later."""
        head, cells = self._head, self._cells
        if cells[places[-1] + _USED] >= head[COLUMNS]:
            return Match(places, ends)
        checked: list[tuple[int, int]] = []
        for bits, blocks in ends:
            rest = bits
            while rest:
                bit = rest & -rest
                rest ^= bit
                since = head[bit.bit_length() - 1]
                have = blocks
                while have and cells[places[have - 1] + _USED] < since:
                    have -= 1
                checked.append((bit, have))
        return Match(places, checked)

    def put(self, hashes: Sequence[int], bit: int, now: int, places: Sequence[int] = ()) -> list[int]:
        """Note that an engine has these blocks, and that they were used.

        Args:
            hashes: of a prompt's blocks, in order.
            bit: the engine's column.
            now: milliseconds on a clock that the users of the memory share.
            places: from `match`, of the first ones.

        Returns:
            Those it was not known to have.
        """
        cells = self._cells
        emptied = self._head[COLUMNS]
        news: list[int] = []
        index = 0
        for place in places:
            engines = cells[place + 1]
            if cells[place + 2] < emptied:
                cells[place + 1] = engines = engines & ~self._emptied_since(cells[place + 2])
            if not engines & bit:
                cells[place + 1] = engines | bit
                news.append(hashes[index])
            cells[place + 2] = now
            index += 1
        sets = self._sets
        for hash_ in hashes[index:] if index else hashes:
            place = hash_ % sets * 6
            if cells[place] != hash_:
                other = place + 3
                if cells[other] == hash_ or cells[other + 2] < cells[place + 2]:
                    place = other
            engines = 0
            if cells[place] != hash_:
                cells[place] = hash_
            else:
                engines = cells[place + 1]
                if cells[place + 2] < emptied:
                    cells[place + 1] = engines = engines & ~self._emptied_since(cells[place + 2])
            if not engines & bit:
                cells[place + 1] = engines | bit
                news.append(hash_)
            cells[place + 2] = now
        return news

    def _emptied_since(self, time: int) -> int:
        """Return the columns whose caches were empty after `time`."""
        bits = 0
        for index, since in enumerate(self._head[:COLUMNS].tolist()):
            if since > time:
                bits |= 1 << index
        return bits

    def forget(self, bit: int, before: int) -> None:
        """Note that an engine has nothing of what was used before this time: its cache was empty, or has turned over.

        Args:
            bit: the engine's column.
            before: milliseconds, on the clock of `put`. A time before an earlier one changes nothing.
        """
        index = bit.bit_length() - 1
        if before > self._head[index]:
            self._head[index] = before
            self._head[COLUMNS] = max(self._head[COLUMNS], before)
