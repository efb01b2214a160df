"""Server-sent events in the bytes of a response: only whole ones go on, so that a stream never breaks inside one."""

from __future__ import annotations

import httptools

MAX_CHUNK = 1023
"""Bytes of a chunk that is passed on in one piece, see `whole_chunk`: more than an event of one token has."""

SIZE_LINES = tuple(b"%x\r\n" % size for size in range(MAX_CHUNK + 3))
"""By the size of a chunk, the line in front of it; up to what `MAX_CHUNK` bytes become with ``null`` for ``[]``."""

_LINES = {len(line) + size + 2: line for size, line in enumerate(SIZE_LINES[: MAX_CHUNK + 1]) if size}
CHUNK_LINES = tuple(_LINES.get(length, b"no chunk\r\n") for length in range(max(_LINES) + 1))
"""By the length of a whole chunk, the same; no chunk begins with what is there for lengths that none has."""

_SIZES = {form % size: size for size in range(1, MAX_CHUNK + 1) for form in (b"%x", b"%X")}
_ENDS = (b"\n\n", b"\r\n\r\n")
_MAX_EVENT = 64 * 1024 * 1024  # bytes; an engine that sends a longer one is not to be trusted with our memory


class StreamError(Exception):
    """A stream is not what it should be; ``str(error)`` says why, as in "engine m-0 …"."""


def whole_chunk(data: bytes) -> bytes | None:
    """Return the content of `data` if that is one chunk of 1 to `MAX_CHUNK` bytes and nothing else (RFC 9112, 7.1).

    Args:
        data: what comes where a chunk may begin.
    """
    mark = data.find(b"\r\n", 0, 5)
    size = _SIZES.get(data[:mark])
    if size is None or len(data) != mark + size + 4 or not data.endswith(b"\r\n"):
        return None
    return data[mark + 2 : -2]


class Dechunker:
    """Takes the chunks off a body that llhttp has accepted before."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes."""
        parts = self._parts
        self._parser.feed_data(data)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return content


class WholeEvents:
    """The events of one response body.

    Args:
        chunked: the body comes in chunks.
    """

    __slots__ = ("_chunks", "rest")

    def __init__(self, chunked: bool) -> None:
        self._chunks = Dechunker() if chunked else None
        self.rest = b""
        """The beginning of an event."""

    def feed(self, data: bytes) -> bytes:
        """Return the events that are complete with `data`, with the empty line behind each.

        Raises:
            StreamError: an event does not end.
        """
        return self.feed_content(data if self._chunks is None else self._chunks.feed(data))

    def feed_content(self, data: bytes) -> bytes:
        """Return the same for bytes that have no chunks around them any more, and begin and end where chunks do.

        Raises:
            StreamError: an event does not end.
        """
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if data[-2:] == b"\n\n":  # nearly always: servers write event by event
            return data
        end = max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _ENDS)
        self.rest = data[end:]
        if len(self.rest) > _MAX_EVENT:
            raise StreamError("sends an event without an end")
        return data[:end]


def payloads(events: bytes) -> list[bytes]:
    """Return the data of whole events; comments and other fields are left out."""
    if b"\r" in events:
        events = events.replace(b"\r\n", b"\n")
    found = []
    for event in events.split(b"\n\n"):
        if event.startswith(b"data: ") and b"\n" not in event:
            found.append(event[6:])
        else:
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                found.append(b"\n".join(lines))
    return found
