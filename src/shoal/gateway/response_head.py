"""The head of an engine's response, taken apart once: what is forwarded of it, and how the body behind it ends."""

from __future__ import annotations

import functools
import re
from enum import IntEnum

import msgspec

from shoal.gateway.fields import without

# The fields that say how the body ends, those about one connection (RFC 9110, 7.6.1), and those that only a gateway
# may say of itself. Found in a lower-case head that llhttp has accepted: it has no other line ends, no folded lines.
_FIELDS = re.compile(
    rb"\r\n(content-length|content-type|content-encoding|transfer-encoding|connection|keep-alive|proxy-connection"
    rb"|upgrade|x-shoal-[a-z]+)"
    rb":[ \t]*([^\r]*)"
)


class Framing(IntEnum):
    """How the end of a response body is known."""

    NONE = 0  # there is no body
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3  # it ends with the connection


_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing  # an enum's attributes cost a little each time


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """A response head.

    Attributes:
        status: HTTP status code.
        head: status line and header lines to be forwarded, without the line end of the last.
        framing: how the body ends.
        length: value of Content-Length, -1 without one.
        keep_alive: the connection can be used again afterwards.
        events: the body is a stream of server-sent events, not compressed.
    """

    status: int
    head: bytes
    framing: Framing
    length: int
    keep_alive: bool
    events: bool = False


class BadResponseError(Exception):
    """An engine answered with something that is not HTTP/1.1, or not to be forwarded."""


# Cached because heads of one second are much alike: they share the date, and those of streams name no length.
@functools.lru_cache(maxsize=256)
def parse_head(head: bytes, head_only: bool, http10: bool) -> ResponseHead:  # noqa: PLR0912 one pass over the fields
    """Take a response head apart.

    Args:
        head: status line and header lines, already accepted by llhttp, without the empty line at the end.
        head_only: it answers a HEAD request.
        http10: it goes to a client that takes no chunks.

    Raises:
        BadResponseError: it cannot be forwarded.
    """
    keep_alive = is_http11 = head.startswith(b"HTTP/1.1 ")
    if not is_http11 and not head.startswith(b"HTTP/1.0 "):
        raise BadResponseError("it is not HTTP/1.1")
    status = int(head[9:12])
    if not 100 <= status < 600:
        raise BadResponseError(f"its status is {status}")
    chunked = events = compressed = False
    length = -1
    dropped: set[bytes] = set()
    for name, value in _FIELDS.findall(head.lower()):
        if name == b"content-length":
            length = int(value)
        elif name == b"content-type":
            events = value.startswith(b"text/event-stream")
        elif name == b"content-encoding":
            compressed = value.strip() != b"identity"
        elif name == b"transfer-encoding":
            if value.strip() != b"chunked":
                raise BadResponseError(f"its transfer coding is {value.decode('latin-1')!r}")
            if not is_http11:
                raise BadResponseError("it has chunks in HTTP/1.0")
            chunked = True
            if http10:
                dropped.add(name)
        else:
            dropped.add(name)
            if name == b"connection":
                tokens = {token.strip() for token in value.split(b",")}
                keep_alive = keep_alive and b"close" not in tokens
                dropped |= tokens - {b"content-length", b"transfer-encoding"}
    framing = _NONE
    if head_only or status in (204, 304) or status < 200:
        if status == 204:
            dropped |= {b"content-length", b"transfer-encoding"}
    elif chunked:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    elif length < 0:
        framing = _CLOSE
        keep_alive = False
    if not is_http11:
        head = b"HTTP/1.1" + head[8:]
    if dropped:
        head = without(head, dropped)
    events = events and not compressed and framing in (_CHUNKED, _CLOSE)
    return ResponseHead(status, head, framing, length, keep_alive, events)
