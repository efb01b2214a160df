"""Whether another running process has this node's name already: asked before joining. No I/O.

The members are asked for their heartbeats, which say whom they have heard, which process (incarnation) it was and how
long ago. A name that was heard is no conflict: a node that was killed and started again finds its own former self
there, silent for a second. A conflict is a *living* process: one whose heartbeats reach the others after this check
began, twice, at least half an interval apart (a single one may have been read late by a busy member).
"""

# ruff: noqa: N818 - what a datagram or a name *is* reads better without the suffix Error

from __future__ import annotations

from typing import Final

from shoal.cluster.addresses import Address, format_address
from shoal.cluster.view import Heard

_SILENT_AFTER: Final = 2.2
"""Intervals without a heartbeat after which a process counts as gone; one of them may be lost on the way."""


class IdentityInUse(Exception):
    """Another running process uses this node's name. Its text is for people."""


class IdentityCheck:
    """Collects answers and decides.

    Args (of the constructor):
        me: the name in question.
        incarnation: of this process.
        interval: seconds between two heartbeats.
        now: the time when the check begins, seconds of a steady clock.
    """

    def __init__(self, me: str, incarnation: int, interval: float, now: float) -> None:
        self._me = me
        self._incarnation = incarnation
        self._interval = interval
        self._began = now
        self._answered = False
        self._newest = 0
        self._last_sign = float("-inf")
        self._counted: list[float] = []
        self._source = ""
        self._witness = ""

    @property
    def incarnation(self) -> int:
        """The incarnation to use: this process's, or a higher one if the clock went back since its last life."""
        return max(self._incarnation, self._newest + 1)

    def answered(self, witness: str, heard: Heard | None, now: float) -> None:
        """Take note of a member's answer: what it has heard under the name in question."""
        self._answered = True
        if heard is not None and heard.incarnation != self._incarnation:
            self._newest = max(self._newest, heard.incarnation)
            if heard.age is not None:
                self._sign(now - heard.age / 1000, witness, (heard.host, heard.port))

    def met(self, incarnation: int, source: Address, now: float) -> None:
        """Take note of a datagram that another process sent under the name itself."""
        self._answered = True
        self._newest = max(self._newest, incarnation)
        self._sign(now, "", source)

    def conflict(self) -> IdentityInUse | None:
        """Return the error if another living process has the name."""
        if len(self._counted) < 2:
            return None
        witness = f"{self._witness} hears it" if self._witness else "it answered"
        return IdentityInUse(
            f"a node {self._me} already runs: {witness} from {self._source}. Two processes cannot be one node: "
            "stop that one, or start this one as another node of the file (--node HOST:PORT)"
        )

    def clear(self, now: float) -> bool:
        """Return whether it is certain enough that nobody else has the name."""
        if len(self._counted) >= 2 or now < self._last_sign + _SILENT_AFTER * self._interval:
            return False
        return now >= self._began + self._interval * (0.5 if self._answered else 1.0)

    def _sign(self, at: float, witness: str, source: Address) -> None:
        self._last_sign = max(self._last_sign, at)
        if at > self._began and (not self._counted or at >= self._counted[-1] + self._interval / 2):
            self._counted.append(at)
            self._source, self._witness = format_address(source), witness
