"""Requests and whole answers of one turn of the loop leave at its end, all together, where a turn has several.

Each write to a socket may wake whoever reads it. Written as they come, between one reading and the next, requests and
answers wake their readers one by one; together, they find most of them awake, and each of these finds several. Events
of streams do not wait: they are read together already (`shoal.gateway.coalescing`), and to wait gains nothing more.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

MOST = 64
"""Connections that wait for the end of a turn, which is a millisecond or two: with more, the first would wait long."""

TRIED = 16
"""Turns after which it is seen whether it was worth it."""

WORTH = 2.0
"""Connections that a turn has to send something on, in the mean of so many turns. One alone only loses time."""

REST = 512
"""So many are sent at once where it was not worth it, until it is tried again."""


class Sender(Protocol):
    """A connection with something to send."""

    def flush(self) -> None:
        """Write what waits, if anything still does."""


class Outbox:
    """The connections that have something to send at the end of this turn of the loop."""

    __slots__ = ("_at_once", "_due", "_loop", "_senders", "_turns")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[Sender] = []
        self._at_once = 0  # how many more are to be sent at once
        self._turns = self._senders = 0  # since it was last seen whether it is worth it

    def add(self, sender: Sender) -> None:
        """Have `sender` flush when everything that this turn has found to read has been read, or at once."""
        if self._at_once:
            self._at_once -= 1
            sender.flush()
            return
        due = self._due
        if not due:
            self._loop.call_soon(self.flush)
        due.append(sender)
        if len(due) == MOST:
            self.flush()

    def flush(self) -> None:
        """Have all of them flush now."""
        due = self._due
        if not due:
            return
        self._due = []
        for sender in due:
            try:
                sender.flush()
            except Exception as error:  # the others have nothing to do with it
                self._loop.call_exception_handler({
                    "message": "Writing what was held back has failed.",
                    "exception": error,
                    "protocol": sender,
                })  # fmt: skip
        self._senders += len(due)
        self._turns += 1
        if self._turns == TRIED:
            if self._senders < WORTH * TRIED:
                self._at_once = REST
            self._turns = self._senders = 0
