"""The serving end's rules: which deliveries begin, wait, or are turned down. Pure: no I/O, no clock.

Each model has as many slots as its engines of this node have room. A class of priority sees only the work of its own
and of higher classes: ordinary requests find their slots as if there were no batches, and batches get what is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

import msgspec

from shoal.transport.queued.frames import Request
from shoal.transport.queued.names import CLASSES, class_of

_REMEMBERED = 10_000  # cancellations


class Delivery(msgspec.Struct, frozen=True):
    """A request as the broker delivered it.

    Attributes:
        request: what is asked.
        receipt: what the broker is told when it is done.
        before: how often it was delivered before, where the broker counts that.
        doubtful: another node may have begun with it, which the broker does not say.
    """

    request: Request
    receipt: Hashable
    before: int = 0
    doubtful: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """A delivery that no engine gets. `why` is for people; "" where nobody waits for the answer."""

    delivery: Delivery
    why: str


class _Desk:
    """The slots of one model."""

    def __init__(self) -> None:
        self.slots = 0
        self.running = [0] * len(CLASSES)
        self.waiting: tuple[deque[Delivery], ...] = tuple(deque() for _ in CLASSES)
        self.paused = [False] * len(CLASSES)

    def free(self, level: int) -> int:
        return self.slots - sum(self.running[level:])

    def wants(self, level: int) -> bool:
        """Whether more is to be pulled; once it is not, only with an empty desk and a free slot again."""
        if self.paused[level]:
            self.paused[level] = bool(self.waiting[level]) or self.free(level) <= 0
        else:
            self.paused[level] = bool(self.waiting[level]) and self.free(level) <= 0
        return self.slots > 0 and not self.paused[level]


class Serving:
    """The deliveries of one node.

    Args:
        redeliveries: how often a request may be delivered again.
    """

    def __init__(self, *, redeliveries: int) -> None:
        self._redeliveries = redeliveries
        self._desks: dict[str, _Desk] = {}
        self._cancelled: dict[str, None] = {}

    def offer(self, slots: dict[str, int]) -> None:
        """Serve these models from now on, each with so many slots, and no others."""
        for model in slots.keys() - self._desks.keys():
            self._desks[model] = _Desk()
        for model, desk in self._desks.items():
            desk.slots = slots.get(model, 0)

    def slots(self, model: str) -> int:
        """Return how many slots a model has here."""
        return self._desks[model].slots if model in self._desks else 0

    def models(self) -> tuple[str, ...]:
        """Return the models that have or had slots."""
        return tuple(self._desks)

    def wants(self, model: str, level: int) -> bool:
        """Return whether requests of a model and class are to be pulled."""
        return model in self._desks and self._desks[model].wants(level)

    def room(self, model: str, level: int) -> int:
        """Return how many more requests of a class could begin at once."""
        if model not in self._desks:
            return 0
        desk = self._desks[model]
        return max(0, desk.free(level) - len(desk.waiting[level]))

    def arrive(self, delivery: Delivery, time: float) -> Refusal | None:
        """Take a delivery; it waits for `next`.

        Args:
            delivery: what came.
            time: Unix time in s.
        """
        refusal = self._refuse(delivery, time)
        if refusal is None:
            request = delivery.request
            desk = self._desks.setdefault(request.model, _Desk())
            desk.waiting[class_of(request.priority)].append(delivery)
        return refusal

    def next(self, time: float) -> Iterator[Delivery | Refusal]:
        """Yield what begins now, the highest class first; each must be told to `done`."""
        for desk in self._desks.values():
            for level in reversed(CLASSES):
                waiting = desk.waiting[level]
                while waiting and desk.free(level) > 0:
                    delivery = waiting.popleft()
                    refusal = self._refuse(delivery, time)
                    if refusal is not None:
                        yield refusal
                        continue
                    desk.running[level] += 1
                    yield delivery

    def done(self, delivery: Delivery) -> None:
        """Free the slot of a delivery that had begun."""
        request = delivery.request
        self._desks[request.model].running[class_of(request.priority)] -= 1

    def cancel(self, id: str) -> None:  # noqa: A002
        """Execute no request of this id that is not yet here."""
        self._cancelled[id] = None
        while len(self._cancelled) > _REMEMBERED:
            del self._cancelled[next(iter(self._cancelled))]

    def drop_waiting(self) -> list[Delivery]:
        """Forget what waits, and return it: the broker gives it to somebody else."""
        dropped = [d for desk in self._desks.values() for waiting in desk.waiting for d in waiting]
        for desk in self._desks.values():
            for waiting in desk.waiting:
                waiting.clear()
        return dropped

    def _refuse(self, delivery: Delivery, time: float) -> Refusal | None:
        request = delivery.request
        if request.id in self._cancelled:
            return Refusal(delivery, "")
        if request.deadline is not None and time >= request.deadline and not delivery.before:
            return Refusal(delivery, "no node had room for it before its deadline")
        if delivery.before > self._redeliveries:
            return Refusal(delivery, f"delivered {delivery.before} times before, and each time its node died")
        return None
