"""Sizes in bytes, written by people: ``64MiB``, ``10 MB``, ``1.5GiB`` or a plain number."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]+)", re.IGNORECASE | re.ASCII)
HOW_TO_WRITE = "a size is a number of bytes or a text such as 64MiB, 10MB or 1GiB"


def parse_size(value: object) -> int:
    """Return the number of bytes that `value` (int, or text with a unit) means.

    Raises:
        ValueError: it is no size; the message says how to write one.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(HOW_TO_WRITE)
    size = Decimal(match[1]) * factor
    if size != int(size):
        raise ValueError("that is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Return `size` bytes in the largest binary unit that divides it: ``64MiB``, else just ``1000``."""
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
