"""The asking end's rules: which frames of which attempt make up an answer. Pure: no I/O, no clock.

One attempt at a time makes the answer. What comes from any other is dropped and that one is told to stop, so a request
that two nodes executed is answered once. As long as nothing of an answer has been given out another attempt may take
its place; afterwards the death of the attempt is the end of the call, with an error, and whoever called goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shoal.transport.queued.frames import Alive, Attempt, Broken, Cancel, Frame, Go, Head, Piece, Taken

LOST_AFTER = 60.0
"""Seconds after which a request that no node has begun with is sent a second time, since brokers that die lose some;
each further time after twice as long. Whichever copy is begun with first is answered, others are told to stop."""


class Give(msgspec.Struct, frozen=True):
    """The next frame of the answer."""

    frame: Head | Piece


class Fail(msgspec.Struct, frozen=True):
    """The call is over without a whole answer. `dead`: its request belongs to the dead letters."""

    id: str
    why: str
    unsent: bool = False
    dead: bool = False


class Tell(msgspec.Struct, frozen=True):
    """A node is to stop, or to begin; all nodes where `inbox` is ""."""

    inbox: str
    frame: Cancel | Go


class Send(msgspec.Struct, frozen=True):
    """The request is to be sent, again, to be begun by `deadline`, which is None where it was begun before."""

    id: str
    round: int
    deadline: float | None = None


Action = Give | Fail | Tell | Send


class Asked(msgspec.Struct):
    """A call under way.

    Attributes:
        patient: it waits while the broker is away.
        deadline: Unix time in s by which a node must have begun; None once one has.
        round: how often its request was sent, less one.
        attempt: whose frames are taken.
        number: of the frame that comes next; more than 0: something of the answer has been given out.
        heard: when the attempt last said something.
        attempts: how many there have been.
        patience: s for which a node is waited for that begins with it,
        due: and until when; None: `tick` has not seen it wait yet.
    """

    id: str
    patient: bool
    deadline: float | None
    round: int = 0
    attempt: Attempt | None = None
    number: int = 0
    heard: float = 0.0
    attempts: int = 0
    patience: float = LOST_AFTER
    due: float | None = None


class Asking:
    """The calls of one node.

    Args:
        redeliveries: how often a request may begin anew because its node died.
        silence: s without a word of a node after which its attempts are over.
    """

    def __init__(self, *, redeliveries: int, silence: float) -> None:
        self._redeliveries = redeliveries
        self._silence = silence
        self._calls: dict[str, Asked] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, id: str, *, patient: bool, deadline: float | None) -> None:  # noqa: A002
        """Begin a call; its request is sent by the caller, as round 0."""
        self._calls[id] = Asked(id, patient, deadline)

    def close(self, id: str) -> Iterator[Action]:  # noqa: A002
        """Nobody waits for this answer any more; nothing happens where it is over."""
        asked = self._calls.pop(id, None)
        if asked is not None:
            yield self._stop(asked)

    def forget(self, id: str) -> None:  # noqa: A002
        """Drop a call whose request could not be sent."""
        self._calls.pop(id, None)

    def waits(self) -> int:
        """Return how many requests no node has begun with."""
        return sum(asked.attempt is None for asked in self._calls.values())

    def receive(self, frame: Frame, now: float) -> Iterator[Action]:
        """Take what came in the inbox."""
        if isinstance(frame, Cancel | Go):
            return
        for attempt in frame.attempts if isinstance(frame, Alive) else (frame.attempt,):
            asked = self._calls.get(attempt.id)
            if asked is None or attempt.round < asked.round:
                if not isinstance(frame, Broken) and not getattr(frame, "last", False):
                    yield Tell(attempt.inbox, Cancel(attempt.id, attempt.token))
                continue
            yield from self._elect(asked, attempt, now)
            if asked.attempt is not None and asked.attempt.token == attempt.token:
                asked.heard = now
                yield from self._read(asked, frame)

    def tick(self, now: float, time: float) -> Iterator[Action]:
        """Look for calls that nobody began in time and for nodes that have fallen silent.

        Args:
            now: on the clock that `receive` is told.
            time: Unix time in s.
        """
        for asked in list(self._calls.values()):
            if asked.deadline is not None and time >= asked.deadline:
                yield self._stop(asked)
                yield self._fail(asked, "the answer was not begun at the request's deadline", unsent=True)
            elif asked.attempt is not None and now - asked.heard >= self._silence:
                yield from self._gone(asked, f"node {asked.attempt.inbox} has fallen silent")
            elif asked.attempt is None and asked.due is None:
                asked.due = now + asked.patience
            elif asked.attempt is None and asked.due is not None and now >= asked.due:
                asked.patience *= 2
                asked.due = now + asked.patience
                yield Send(asked.id, asked.round, asked.deadline)

    def lost(self, why: str) -> Iterator[Action]:
        """The broker is away."""
        for asked in list(self._calls.values()):
            if not asked.patient or asked.number:
                yield self._fail(asked, why)
            else:
                asked.attempt = None

    def restored(self) -> Iterator[Action]:
        """The broker is back: what waited is sent again, since it may have lost it or its answer."""
        for asked in list(self._calls.values()):
            yield self._again(asked)

    def end(self, why: str) -> Iterator[Action]:
        """All calls are over."""
        for asked in list(self._calls.values()):
            yield self._stop(asked)
            yield self._fail(asked, why)

    # -- rules

    def _elect(self, asked: Asked, attempt: Attempt, now: float) -> Iterator[Action]:
        """Decide whose answer it is when `attempt` says something."""
        current = asked.attempt
        if current is not None and current.token == attempt.token:
            return
        if current is not None:
            newer = attempt.rank > current.rank or (
                attempt.rank == current.rank and now - asked.heard >= self._silence
            )
            if not newer:
                yield Tell(attempt.inbox, Cancel(asked.id, attempt.token))
                return
            if asked.number:
                yield Tell(attempt.inbox, Cancel(asked.id, attempt.token))
                yield self._fail(asked, f"node {current.inbox} died with the answer under way")
                return
            yield Tell(current.inbox, Cancel(asked.id, current.token))
        asked.attempt = attempt
        asked.deadline = None
        asked.attempts += 1
        if asked.attempts > self._redeliveries + 1:
            yield self._stop(asked)
            yield self._too_often(asked)

    def _read(self, asked: Asked, frame: Frame) -> Iterator[Action]:
        if asked.id not in self._calls:
            return
        if isinstance(frame, Taken) and frame.waits:
            yield Tell(frame.attempt.inbox, Go(asked.id, frame.attempt.token))
        elif isinstance(frame, Broken):
            yield self._fail(asked, frame.why, unsent=frame.unsent and not asked.number)
        elif isinstance(frame, (Head, Piece)):
            number = frame.number if isinstance(frame, Piece) else 0
            if number < asked.number:
                return  # the broker delivered it twice
            if number > asked.number:
                missing = number - asked.number
                yield self._stop(asked)
                yield self._fail(asked, f"{missing} pieces of the answer were lost on the way")
                return
            asked.number += 1
            if frame.last:
                del self._calls[asked.id]
            yield Give(frame)

    def _gone(self, asked: Asked, why: str) -> Iterator[Action]:
        """The node that had it is no more: have it begun anew, where nothing of the answer is out."""
        yield self._stop(asked)
        if asked.number:
            yield self._fail(asked, why)
        elif asked.attempts > self._redeliveries:
            yield self._too_often(asked)
        else:
            yield self._again(asked)

    def _again(self, asked: Asked) -> Send:
        asked.round += 1
        asked.attempt = asked.due = None
        return Send(asked.id, asked.round, asked.deadline)

    def _stop(self, asked: Asked) -> Tell:
        if asked.attempt is None:
            return Tell("", Cancel(asked.id, ""))
        return Tell(asked.attempt.inbox, Cancel(asked.id, asked.attempt.token))

    def _too_often(self, asked: Asked) -> Fail:
        why = f"{asked.attempts} nodes died or fell silent with this request; it is not tried again"
        self._calls.pop(asked.id, None)
        return Fail(asked.id, why, dead=True)

    def _fail(self, asked: Asked, why: str, *, unsent: bool = False) -> Fail:
        self._calls.pop(asked.id, None)
        return Fail(asked.id, why, unsent)
