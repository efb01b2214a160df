"""Header lines that a relay passes on, and those that belong to one connection (RFC 9110, section 7.6.1)."""

from __future__ import annotations

from shoal.transport.contract import Headers

_OF_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers without those of one connection, names in lower case."""
    low = [(name.lower(), value) for name, value in headers]
    named: set[bytes] = set()
    for name, value in low:
        if name == b"connection":
            named |= {token.strip().lower() for token in value.split(b",")}
    return [(name, value) for name, value in low if name not in _OF_CONNECTION and name not in named]


def lines(headers: Headers) -> bytes:
    """Return header lines, each with its line end."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def has(headers: Headers, name: bytes) -> bool:
    """Whether there is a header of this (lower-case) name."""
    return any(n == name for n, _ in headers)


def bodiless(method: bytes, status: int) -> bool:
    """Whether the answer has no body whatever its headers say."""
    return method == b"HEAD" or status in (204, 304) or 100 <= status < 200
