"""Prompts as chains of block hashes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.prompt import ENDS, MAX_PREFIX, chain


def common(one: bytes, other: bytes) -> int:
    """Return how many leading bytes are equal."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


@given(st.binary(max_size=6000), st.binary(max_size=3000), st.binary(max_size=3000))
def test_prompts_share_exactly_the_blocks_in_front_of_their_first_difference(beginning, one, other):
    first, second = chain(beginning + one), chain(beginning + other)
    shared = common(beginning + one, beginning + other)
    equal = [a == b for a, b in zip(first.hashes, second.hashes, strict=False)]
    assert equal == [end <= shared for end in ENDS[: len(equal)]]


@given(st.integers(0, 3 * MAX_PREFIX))
def test_there_is_a_hash_for_each_whole_block_and_never_more_than_there_are_ends(size):
    prompt = chain(bytes(size))
    assert len(prompt.hashes) == sum(end <= size for end in ENDS)
    assert prompt.size == size


def test_equal_blocks_at_different_places_or_of_different_models_are_not_confused():
    prompt = chain(bytes(4096))
    assert len(set(prompt.hashes)) == len(prompt.hashes)
    assert not set(prompt.hashes) & set(chain(bytes(4096), seed=1).hashes)


def test_blocks_are_small_at_the_beginning_and_few_in_all():
    assert ENDS[0] == 128
    assert sum(end <= 32 * 1024 for end in ENDS) == 60
    assert ENDS[-1] == MAX_PREFIX
    assert len(ENDS) < 500
