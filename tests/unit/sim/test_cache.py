from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim.cache import BlockPool, block_hash


def chain(*contents: int) -> list[int]:
    keys: list[int] = []
    for content in contents:
        keys.append(block_hash(keys[-1] if keys else 0, (content,)))
    return keys


def store(pool: BlockPool, keys: list[int]) -> list[int]:
    """Do what a request does that computes these blocks and leaves."""
    shared = pool.match(keys)
    blocks = pool.acquire(shared, len(keys) - len(shared))
    assert blocks is not None
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    return blocks


def test_a_released_prefix_is_found_again() -> None:
    pool = BlockPool(8, 16)
    blocks = store(pool, chain(1, 2, 3))
    assert pool.used == 0
    assert pool.match(chain(1, 2, 4)) == blocks[:2]
    assert pool.match(chain(2)) == []


def test_the_least_recently_used_content_is_forgotten_first_ends_before_beginnings() -> None:
    pool = BlockPool(4, 16)
    store(pool, chain(1, 2))
    store(pool, chain(7, 8))
    store(pool, chain(9))
    assert len(pool.match(chain(1, 2))) == 1
    assert len(pool.match(chain(7, 8))) == 2


def test_using_a_prefix_keeps_it() -> None:
    pool = BlockPool(4, 16)
    store(pool, chain(1, 2))
    store(pool, chain(7, 8))
    store(pool, chain(1, 2))
    store(pool, chain(9, 10))
    assert len(pool.match(chain(1, 2))) == 2
    assert pool.match(chain(7)) == []


def test_too_many_blocks_at_once_take_none() -> None:
    pool = BlockPool(3, 16)
    assert pool.acquire((), 4) is None
    store(pool, chain(1))
    assert pool.acquire(pool.match(chain(1)), 3) is None
    assert pool.used == 0


def test_shared_blocks_are_free_only_when_the_last_holder_leaves() -> None:
    pool = BlockPool(3, 16)
    store(pool, chain(1))
    first = pool.acquire(pool.match(chain(1)), 0)
    second = pool.acquire(pool.match(chain(1)), 1)
    assert first is not None and second is not None
    assert pool.used == 2
    pool.release(second)
    assert pool.used == 1
    pool.release(first)
    assert pool.used == 0


def test_nothing_is_found_without_prefix_caching_or_after_forgetting() -> None:
    off = BlockPool(4, 16, prefix_caching=False)
    store(off, chain(1))
    assert off.match(chain(1)) == []
    pool = BlockPool(4, 16)
    store(pool, chain(1))
    pool.forget()
    assert pool.match(chain(1)) == []
    assert pool.cached == 0


def test_the_hash_depends_on_everything_before() -> None:
    assert chain(1, 2)[1] != chain(3, 2)[1]
    assert chain(1, 2) == chain(1, 2)


@pytest.mark.parametrize("size", [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(*size)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), max_size=40))
def test_never_more_blocks_are_held_or_findable_than_there_are(requests: list[list[int]]) -> None:
    pool = BlockPool(6, 16)
    held: list[list[int]] = []
    for contents in requests:
        keys = chain(*contents)
        shared = pool.match(keys)
        blocks = pool.acquire(shared, len(keys) - len(shared))
        if blocks is None:
            for old in held:
                pool.release(old)
            held.clear()
            assert pool.used == 0
            continue
        assert len(set(blocks)) == len(blocks)
        for block, key in zip(blocks, keys, strict=True):
            pool.publish(block, key)
        held.append(blocks)
        assert pool.used == len({block for blocks in held for block in blocks}) <= pool.capacity
        assert pool.cached <= pool.capacity
