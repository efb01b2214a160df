"""Waiting for conditions instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline: float = 10.0, what: str = "", every: float = 0.02) -> T:
    """Call `condition` until it returns something true and return that; fail after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {deadline:g} s: {what or getattr(condition, '__name__', condition)}"
            )
        time.sleep(every)
