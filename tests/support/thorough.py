"""How much is tried: a part in `make test-quick`, everything in `make test`, which sets SHOAL_TEST_THOROUGH."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
THOROUGH = bool(os.environ.get("SHOAL_TEST_THOROUGH"))
_PART = 3


def tries(full: int) -> int:
    """Return how many examples or repetitions to try where a thorough run tries `full`.

    Hypothesis chooses other examples in each run, so many quick runs see what a thorough one sees.
    """
    return full if THOROUGH else max(1, full // _PART)


def some(everything: Sequence[T]) -> Sequence[T]:
    """Return what to try of things that lie close together: every third of them, all in a thorough run."""
    return everything if THOROUGH else everything[::_PART]
