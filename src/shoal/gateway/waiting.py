"""Requests that wait for an engine: who is next, who finds no place, and how fast the queue moves.

Pure: no clock of its own, no I/O. The order is, first to last:

1. interactive requests before batch ones;
2. lower priorities before higher ones, as in vLLM's ``--scheduling-policy priority``;
3. within a priority the owners (API keys, clients) in turn, so that who sends a thousand requests does not keep out
   who sends one;
4. of one owner first come, first served.

Strict priorities starve. So of `RELIEF` interactive requests that start, one is of the priority that has waited
longest. Batch requests have no part in that: they yield.

A full queue keeps its order, too: a newcomer takes the place of the last of a less urgent class, or, within its own
class, of the newest of the owner that has most (longest queue drop, B. Suter et al., 1998). Else it is not taken.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import OrderedDict
from typing import Generic, TypeVar

import msgspec

RELIEF = 10
"""Of so many interactive requests that start, one is of the priority that has waited longest."""

MEMORY = 10.0
"""Seconds that the drain rate looks back: what is older counts less than 1/e."""

T = TypeVar("T")
Rank = tuple[bool, int]


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a request says about its urgency.

    Attributes:
        priority: lower goes first, 0 is ordinary.
        batch: nobody waits for it; it goes after everything else and only onto engines with room to spare.
    """

    priority: int = 0
    batch: bool = False

    @property
    def rank(self) -> Rank:
        """Smaller goes first."""
        return (self.batch, self.priority)


ORDINARY = Claim()
"""The claim of a request that says nothing."""


class Ticket(Generic[T]):
    """A place in the queue.

    Attributes:
        item: what waits.
        rank: of its claim.
        owner: whom it belongs to.
        size: bytes it holds.
        since: when it came.
        deadline: when it will have waited too long.
        number: grows with each ticket.
        waits: it is in the queue.
    """

    __slots__ = ("deadline", "item", "number", "owner", "rank", "since", "size", "waits")

    def __init__(
        self, item: T, rank: Rank, owner: str, *, size: int, since: float, deadline: float, number: int
    ) -> None:
        self.item = item
        self.rank = rank
        self.owner = owner
        self.size = size
        self.since = since
        self.deadline = deadline
        self.number = number
        self.waits = True


class DrainRate:
    """How many waiting requests start per second, seen while some wait: starts divided by time, the older the less."""

    def __init__(self) -> None:
        self._starts = 0.0
        self._seconds = 0.0
        self._at: float | None = None  # None: nobody waits, so nothing is learned

    def _advance(self, now: float) -> None:
        if self._at is None:
            return
        passed = max(0.0, now - self._at)
        fade = math.exp(-passed / MEMORY)
        self._starts *= fade
        self._seconds = self._seconds * fade + MEMORY * (1 - fade)
        self._at = now

    def begin(self, now: float) -> None:
        """Somebody waits from now on."""
        if self._at is None:
            self._at = now

    def end(self, now: float) -> None:
        """Nobody waits any more; what was seen stays until somebody does again."""
        self._advance(now)
        self._at = None

    def started(self, now: float) -> None:
        """One that waited starts."""
        self._advance(now)
        self._starts += 1

    def per_second(self, now: float) -> float:
        """Return starts per second, 0 if none has been seen."""
        self._advance(now)
        return self._starts / self._seconds if self._seconds > 0 else 0.0


class WaitingQueue(Generic[T]):
    """The requests that wait for the engines of one model.

    Args:
        max_requests: places; 0 for none.
        max_bytes: that all of them hold together; one that is alone may hold more.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.interactive = 0
        """Waiting requests that are not batch ones."""
        self.bytes = 0
        """What the waiting requests hold."""
        # rank -> owner (in turn) -> number -> ticket (by arrival)
        self._classes: dict[Rank, OrderedDict[str, OrderedDict[int, Ticket[T]]]] = {}
        self._ranks: list[Rank] = []  # of `_classes`, sorted
        self._arrivals: OrderedDict[int, Ticket[T]] = OrderedDict()  # interactive ones
        self._deadlines: list[
            tuple[float, int, Ticket[T]]
        ] = []  # a heap; those that wait no more are passed over
        self._count = 0
        self._numbers = 0
        self._starts = 0  # of interactive ones
        self._rate = DrainRate()

    def __len__(self) -> int:
        return self._count

    def offer(
        self, item: T, claim: Claim, owner: str, *, size: int, now: float, deadline: float
    ) -> tuple[Ticket[T] | None, Ticket[T] | None]:
        """Let a request wait.

        Args:
            item: the request.
            claim: its urgency.
            owner: whom it belongs to.
            size: bytes it holds.
            now: the time, seconds.
            deadline: when it has waited too long; infinity for never.

        Returns:
            Its ticket, None if there is no place for it; and the ticket of the one that had to go for it, if any.
        """
        rank = claim.rank
        gone = None
        if not self._fits(size):
            gone = self._less_deserving(rank, owner)
            if gone is None or not self._fits(size, without=gone):
                return None, None
            self.leave(gone, now)
        if not self._count:
            self._rate.begin(now)
        self._numbers += 1
        ticket = Ticket(item, rank, owner, size=size, since=now, deadline=deadline, number=self._numbers)
        self._enter(ticket)
        return ticket, gone

    def next(self) -> Ticket[T] | None:
        """Return the ticket of the one that goes next, None if nobody waits."""
        if not self._count:
            return None
        ranks = self._ranks
        rank = ranks[0]
        if self._starts % RELIEF == RELIEF - 1 and len(ranks) > 1 and not ranks[1][0]:
            rank = next(iter(self._arrivals.values())).rank
        turn = next(iter(self._classes[rank].values()))
        return next(iter(turn.values()))

    def start(self, ticket: Ticket[T], now: float) -> None:
        """Take out one that `next` has named, since it goes to an engine now."""
        if not ticket.rank[0]:
            self._starts += 1
        self._remove(ticket, now, turn_over=True)
        self._rate.started(now)

    def leave(self, ticket: Ticket[T], now: float) -> None:
        """Take out one that waits no longer, for whatever reason. One that is out already stays out."""
        if ticket.waits:
            self._remove(ticket, now, turn_over=False)

    def expired(self, now: float) -> list[Ticket[T]]:
        """Take out and return those that have waited until their deadline."""
        late = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            ticket = heapq.heappop(deadlines)[2]
            if ticket.waits:
                self._remove(ticket, now, turn_over=False)
                late.append(ticket)
        return late

    def drain_time(self, claim: Claim, now: float) -> float | None:
        """Return the seconds until those that wait now and go before such a request have started; None if unknown.

        It is what the queue has really done lately that counts, and not what engines might do.
        """
        rate = self._rate.per_second(now)
        if rate <= 0:
            return None
        return (self._count if claim.batch else self.interactive) / rate

    # The inside.

    def _fits(self, size: int, without: Ticket[T] | None = None) -> bool:
        count, held = self._count, self.bytes
        if without is not None:
            count, held = count - 1, held - without.size
        return count < self.max_requests and (not count or held + size <= self.max_bytes)

    def _less_deserving(self, rank: Rank, owner: str) -> Ticket[T] | None:
        """Return the ticket that has to go for a newcomer, None if the newcomer has to."""
        if not self._ranks or self._ranks[-1] < rank:
            return None
        turns = self._classes[self._ranks[-1]]
        longest = max(turns, key=lambda name: len(turns[name]))
        if self._ranks[-1] == rank and len(turns[longest]) <= len(turns.get(owner, ())) + 1:
            return None
        return next(reversed(turns[longest].values()))

    def _enter(self, ticket: Ticket[T]) -> None:
        turns = self._classes.get(ticket.rank)
        if turns is None:
            turns = self._classes[ticket.rank] = OrderedDict()
            insort(self._ranks, ticket.rank)
        turn = turns.get(ticket.owner)
        if turn is None:
            turn = turns[ticket.owner] = OrderedDict()
        turn[ticket.number] = ticket
        self._count += 1
        self.bytes += ticket.size
        if not ticket.rank[0]:
            self.interactive += 1
            self._arrivals[ticket.number] = ticket
        if ticket.deadline != math.inf:
            if len(self._deadlines) > 2 * self._count + 64:
                self._deadlines = [entry for entry in self._deadlines if entry[2].waits]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))

    def _remove(self, ticket: Ticket[T], now: float, *, turn_over: bool) -> None:
        ticket.waits = False
        rank, owner = ticket.rank, ticket.owner
        turns = self._classes[rank]
        turn = turns[owner]
        del turn[ticket.number]
        if not turn:
            del turns[owner]
            if not turns:
                del self._classes[rank]
                self._ranks.remove(rank)
        elif turn_over:
            turns.move_to_end(owner)
        self._count -= 1
        self.bytes -= ticket.size
        if not rank[0]:
            self.interactive -= 1
            del self._arrivals[ticket.number]
        if not self._count:
            self._rate.end(now)
