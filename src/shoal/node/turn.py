"""Turns: one operator at a time changes the configuration. Each node grants its own, and no quorum is asked for.

Whoever wants to apply asks every node that lives, in the order of their names, and gives back what it was granted where
one refuses. So of two that ask at the same time, the first node lets one through. A turn that is not renewed ends by
itself. No I/O, no clock of its own.
"""

from __future__ import annotations

import msgspec

LASTS = 15.0
"""Seconds that a turn lasts if it is not renewed."""
RENEW_EVERY = 3.0
"""Seconds between two renewals."""


class Turn(msgspec.Struct, frozen=True):
    """A turn that was granted.

    Attributes:
        id: its own.
        by: who has it, for people: the node that the order was given to.
        since: seconds since the epoch.
        until: it ends then unless it is renewed; seconds on a steady clock.
    """

    id: str
    by: str
    since: float
    until: float


class TakenError(Exception):
    """Somebody else has the turn; the text says who and since when."""


class Turns:
    """Grants the turn of one node."""

    def __init__(self) -> None:
        self._turn: Turn | None = None

    def current(self, now: float) -> Turn | None:
        """Return who has the turn, None if nobody has."""
        return self._turn if self._turn is not None and now < self._turn.until else None

    def take(self, id_: str, by: str, wall: float, now: float) -> None:
        """Grant or renew a turn.

        Args:
            id_: the turn's.
            by: who asks.
            wall: seconds since the epoch.
            now: seconds on a steady clock.

        Raises:
            TakenError: somebody else has it.
        """
        has = self.current(now)
        if has is not None and has.id != id_:
            raise TakenError(
                f"{has.by} applies a configuration since {wall - has.since:.0f} s ago; one at a time"
            )
        since = has.since if has is not None else wall
        self._turn = Turn(id_, by, since, now + LASTS)

    def release(self, id_: str) -> None:
        """End a turn; one that is not the present one is none to end."""
        if self._turn is not None and self._turn.id == id_:
            self._turn = None
