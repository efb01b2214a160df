"""A prompt as a chain of block hashes: two prompts that begin alike have chains that begin alike. Pure.

The hash of a block stands for the block and for everything in front of it, as in the prefix cache of an engine. Blocks
end at the same places in every prompt. They grow with the distance from the beginning, so that a short conversation has
some and a book does not have thousands: 128 bytes up to 1 KiB, 1 KiB around 32 KiB, 4 KiB before the end at 1 MiB.
What comes after that counts as part of the prompt's size, but nothing is found by it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

MAX_PREFIX: Final = 1024 * 1024
"""Bytes of a prompt that are hashed at most."""

_STEPS: Final = (
    (1024, 128),
    (4 * 1024, 256),
    (16 * 1024, 512),
    (64 * 1024, 1024),
    (256 * 1024, 2048),
    (MAX_PREFIX, 4096),
)


def _ends() -> Iterator[int]:
    end = 0
    for until, step in _STEPS:
        while end < until:
            end += step
            yield end


ENDS: Final = tuple(_ends())
"""Bytes from the beginning of a prompt to the end of each block."""


class Prompt(NamedTuple):
    """What routing needs to know of a prompt.

    Attributes:
        hashes: of its whole blocks, 64 bits each; ``ENDS[i]`` is where block i ends.
        size: bytes.
    """

    hashes: Sequence[int]
    size: int


NO_PROMPT: Final = Prompt((), 0)


def chain(text: bytes | memoryview, seed: int = 0) -> Prompt:
    """Return the prompt of a text.

    Args:
        text: the canonical prompt: whatever an engine would see in another order or form must be the same bytes.
        seed: what the prompts of one cache have in common, such as a hash of the model; 64 bits.
    """
    size = len(text)
    hashes: list[int] = []
    start, block = 0, seed
    for end in ENDS[: bisect_right(ENDS, size)]:
        block = xxh3_64_intdigest(text[start:end], block)
        hashes.append(block)
        start = end
    return Prompt(hashes, size)
