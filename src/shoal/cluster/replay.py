"""Replay protection: each authentic datagram is taken once, and none of a process that was replaced. No I/O.

The window is that of IPsec (RFC 4303, section 3.4.3), kept per sender and incarnation. What it cannot know is what
was sent before this process started: somebody who recorded a dead node's datagrams can make it look alive to a node
that has just started, until the same process is heard or the recording ends. It gains him failed connections.
"""

# ruff: noqa: N818 - what a datagram or a name *is* reads better without the suffix Error

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from shoal.cluster.wire import Hello, Message, WireError

WINDOW: Final = 256
"""How far a datagram may lag behind the newest one of its sender, in datagrams of that sender."""
_MAX_SENDERS: Final = 4096


class Replay(WireError):
    """A datagram that was taken before, or is too old to tell."""


class StaleIncarnation(Replay):
    """A fresh datagram of a process whose successor has been heard: two processes share one name."""


class ReplayGuard:
    """Remembers what was taken from whom."""

    def __init__(self) -> None:
        # Newest sequence and a bit mask of the WINDOW ones up to it (bit 0 = newest), least recently used first.
        self._windows: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()
        self._current: OrderedDict[str, int] = OrderedDict()

    def check(self, message: Message) -> None:
        """Take note of an authentic message.

        A `Hello` is taken from any incarnation and makes none current: the sender has not joined yet, and a second
        process with the name of a running one must not shut that one out by asking.

        Raises:
            Replay: it was taken before, or lags too far behind.
            StaleIncarnation: it is fresh, but a newer incarnation of its sender is current.
        """
        key = (message.sender, message.incarnation)
        newest, seen = self._windows.get(key, (-1, 0))
        ahead = message.sequence - newest
        if ahead > 0:
            # Shifting by the gap itself would let one datagram make a number of any size.
            seen = ((seen << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            newest = message.sequence
        elif -ahead >= WINDOW or seen >> -ahead & 1:
            raise Replay(f"datagram {message.sequence} of {message.sender} came twice or very late")
        else:
            seen |= 1 << -ahead
        self._windows[key] = (newest, seen)
        self._windows.move_to_end(key)
        if len(self._windows) > _MAX_SENDERS:
            self._windows.popitem(last=False)
        if not isinstance(message.payload, Hello):
            self._check_incarnation(message)

    def _check_incarnation(self, message: Message) -> None:
        if message.incarnation < self._current.get(message.sender, 0):
            raise StaleIncarnation(f"a newer process than this one was heard as {message.sender}")
        self._current[message.sender] = message.incarnation
        self._current.move_to_end(message.sender)
        if len(self._current) > _MAX_SENDERS:
            self._current.popitem(last=False)
