"""The body of a request that goes on as it comes: a file on its way to the control app, of any size.

Every other body is held until it is complete, so that the request can go to another engine. Files are neither small nor
for engines. Only a body of known length is taken so: where it ends is counted here, and nothing behind it goes on.
"""

from __future__ import annotations

import asyncio

HELD = 64 * 1024
"""Bytes taken in before there is somebody to give them to."""

PATH = b"/v1/files"
"""Where files are sent, with POST."""


def is_upload(method: bytes, target: bytes) -> bool:
    """Whether the body of a request is a file to be kept, and not a question for an engine."""
    return method == b"POST" and target.partition(b"?")[0] == PATH


class Upload:
    """A body under way.

    Args:
        length: bytes of it.

    Attributes:
        remaining: bytes that have not come yet.
        held: those that came and have not gone on.
    """

    __slots__ = ("_sink", "held", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.held = b""
        self._sink: asyncio.WriteTransport | None = None

    def feed(self, data: bytes) -> None:
        """Take what the client has sent; what is beyond the end of the body is dropped."""
        data = data[: self.remaining]
        self.remaining -= len(data)
        if self._sink is None:
            self.held += data
        elif not self._sink.is_closing():
            self._sink.write(data)

    def attach(self, sink: asyncio.WriteTransport) -> None:
        """Give all that has come, and what will come, to `sink`."""
        self._sink = sink
        held, self.held = self.held, b""
        if held:
            sink.write(held)
