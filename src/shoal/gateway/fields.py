"""Header lines in a head that llhttp has accepted: every line ends with CRLF, none is folded, none has a space before
its colon.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

_MANY = 16


def without(head: bytes, names: AbstractSet[bytes]) -> bytes:
    """Return a head without the lines of some fields, everything else as it was.

    Args:
        head: first line and header lines, without the line end of the last.
        names: of the fields, in lower case.
    """
    if (
        len(names) > _MANY
    ):  # one pass over the lines and not one per name, of which a client may give thousands
        first, *lines = head.split(b"\r\n")
        kept = (line for line in lines if line.partition(b":")[0].lower() not in names)
        return b"\r\n".join((first, *kept))
    lower = head.lower()
    for name in names:
        line = b"\r\n" + name + b":"
        while (start := lower.find(line)) >= 0:
            end = lower.find(b"\r\n", start + 2)
            if end < 0:
                end = len(lower)
            head = head[:start] + head[end:]
            lower = lower[:start] + lower[end:]
    return head


def with_length(head: bytes, length: int) -> bytes:
    """Return a request head that announces a body of `length` bytes."""
    return without(head, {b"content-length"}) + b"\r\ncontent-length: %d" % length
