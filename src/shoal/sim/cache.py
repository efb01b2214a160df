"""KV cache in blocks with a prefix cache, as vLLM's block pool: freed blocks stay findable until they are reused.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


def block_hash(parent: int, tokens: Sequence[int]) -> int:
    """Return the key of a full block: it stands for `tokens` and everything in front of them.

    Tuples of integers hash alike in every process, and well enough here: 64 bits, no adversary.
    """
    return hash((parent, *tokens))


class BlockPool:
    """A fixed number of KV blocks, shared by requests with equal prefixes.

    Args:
        blocks: capacity, at least 1.
        block_size: tokens per block, at least 1.
        prefix_caching: keep the content of freed blocks for later requests.

    Attributes:
        queries: prompt tokens that were looked up in the prefix cache so far.
        hits: those of them that were found.
    """

    def __init__(self, blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError("a block pool needs at least one block of at least one token")
        self.capacity = blocks
        self.block_size = block_size
        self.queries = 0
        self.hits = 0
        self._caching = prefix_caching
        self._references = [0] * blocks
        self._hashes: list[int | None] = [None] * blocks
        self._cached: dict[int, int] = {}
        # Free blocks in the order they are reused: least recently freed first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))

    @property
    def used(self) -> int:
        """Blocks held by requests now."""
        return self.capacity - len(self._free)

    @property
    def usage(self) -> float:
        """Fraction of the blocks held by requests, 0 to 1."""
        return self.used / self.capacity

    @property
    def cached(self) -> int:
        """Blocks whose content can be found, held or free."""
        return len(self._cached)

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def match(self, hashes: Iterable[int]) -> list[int]:
        """Return the blocks of the longest known prefix of `hashes`, without taking them."""
        found: list[int] = []
        for key in hashes:
            block = self._cached.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def count_lookup(self, queried: int, hit: int) -> None:
        """Count a finished prefix lookup, in tokens."""
        self.queries += queried
        self.hits += hit

    def acquire(self, shared: Sequence[int], fresh: int) -> list[int] | None:
        """Take the blocks `shared` (from `match`) and `fresh` new ones; all or, when too few are free, None."""
        idle = sum(1 for block in shared if not self._references[block])
        if fresh > len(self._free) - idle:
            return None
        for block in shared:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1
        return [*shared, *(self._take_free() for _ in range(fresh))]

    def _take_free(self) -> int:
        block, _ = self._free.popitem(last=False)
        key = self._hashes[block]
        if key is not None:
            del self._cached[key]
            self._hashes[block] = None
        self._references[block] = 1
        return block

    def publish(self, block: int, key: int) -> None:
        """Make the full block findable under `key`. The first block of a content stays the one that is found."""
        if self._caching and key not in self._cached and self._hashes[block] is None:
            self._cached[key] = block
            self._hashes[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Give back the blocks of a request, in the order of its text.

        The last ones become reusable first: the beginning of a text is the part others are likely to share.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None

    def forget(self) -> None:
        """Empty the prefix cache; held blocks stay held."""
        self._cached.clear()
        self._hashes = [None] * self.capacity
