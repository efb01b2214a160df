"""Session: the same engine for all requests of a conversation, a user, or a key, unless it has too much to do.

Rendezvous hashing: every engine draws a number from the session and its own name, and the highest wins. Gateways agree
without talking, and when an engine comes or goes only its own sessions move. With a bound for the load, after
V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016: an engine that has more than
its share leaves its sessions to the next in line.

Weighted as in J. Resch, "New Hashing Algorithms for Data Storage", 2015: ``-weight / ln(u)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from shoal.routing.ask import Ask
from shoal.routing.least_connections import LeastConnections
from shoal.routing.table import EngineTarget

BOUND: Final = 1.5
"""An engine with more than this times the mean of open requests (by weight) is passed over."""

ALWAYS: Final = 4
"""Open requests up to which it is not: a mean of few says nothing."""


class Session:
    """Picks by the session; requests that have none go where there is least to do.

    Args:
        seed: for the turns of requests without a session.
        header: lower-case name of the header that names the session.
    """

    uses_load = True

    def __init__(self, seed: int = 0, header: bytes = b"x-session-id") -> None:
        self._header = header
        self._others = LeastConnections(seed)

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the session's engine."""
        session = ask.header(self._header) or ask.session()
        if not session:
            return self._others.pick(engines, in_flight, ask)
        key = xxh3_64_intdigest(session)
        bound = BOUND * (sum(in_flight) + 1) / sum([engine.weight for engine in engines])
        best, most = -1, 0.0
        for index, engine in enumerate(engines):
            open_ = in_flight[index] + 1
            if open_ > ALWAYS and open_ > bound * engine.weight:
                continue
            drawn = (xxh3_64_intdigest(engine.id.encode(), key) + 1) / (2**64 + 1)
            mine = -engine.weight / math.log(drawn)
            if mine > most:
                best, most = index, mine
        return best if best >= 0 else self._others.pick(engines, in_flight, ask)
