"""Faults of the links between nodes. They need network namespaces."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.chaos.faults.base import LAST, OTHERS, Detection, Fault

_SLOW = "512kbit"  # an engine's streams to the other nodes need more than three times as much


class OneWay(Fault):
    """What one node sends to one other is lost; the other way still works."""

    name: ClassVar[str] = "link cut one way"
    meaning: ClassVar[str] = (
        "For 6 s everything that the last node sends to the second one is lost without a word; what "
        "the second one sends still arrives. Load enters through the first two. Noticed: the last "
        "stream that fell silent has gone on or ended. Recovery is counted from the repair."
    )
    entries: ClassVar[tuple[int, ...]] = OTHERS
    detection: ClassVar[Detection] = Detection.STREAMS
    hold: ClassVar[float | None] = 6.0
    links: ClassVar[bool] = True

    async def strike(self) -> None:
        """Cut it."""
        self.links_of.cut(LAST, 1)

    async def repair(self) -> None:
        """Mend it."""
        self.links_of.mend(LAST, 1)


class Partition(Fault):
    """The last node and the first two do not reach each other; clients reach all three."""

    name: ClassVar[str] = "partition 2/1"
    meaning: ClassVar[str] = (
        "For 6 s nothing passes between the last node and the first two, either way; clients reach "
        "all three, and load enters through all three. Noticed: the first node calls the last one "
        "dead. Recovery is counted from the repair."
    )
    hold: ClassVar[float | None] = 6.0
    links: ClassVar[bool] = True

    async def strike(self) -> None:
        """Cut all four ways."""
        for other in OTHERS:
            self.links_of.cut(LAST, other)
            self.links_of.cut(other, LAST)

    async def detected(self) -> bool:
        """Return whether the first node calls the last one dead."""
        return (await self.cluster.member(0, LAST)).get("state") == "dead"

    async def repair(self) -> None:
        """Mend them."""
        for other in OTHERS:
            self.links_of.mend(LAST, other)
            self.links_of.mend(other, LAST)


class SlowLink(Fault):
    """A link becomes too slow for what goes over it."""

    name: ClassVar[str] = "slow link"
    meaning: ClassVar[str] = (
        "For 8 s only 512 kbit/s pass over the last node's link each way, with a queue of 0.4 s (tbf); its "
        "streams need several times that. Load enters through the first two. There is nothing that "
        "has to be noticed: slow is not dead. *Detection* is given where the cluster changed all the "
        "same. Recovery is counted from the repair."
    )
    entries: ClassVar[tuple[int, ...]] = OTHERS
    detection: ClassVar[Detection] = Detection.NOTHING
    hold: ClassVar[float | None] = 8.0
    links: ClassVar[bool] = True

    async def strike(self) -> None:
        """Slow it down."""
        self.links_of.throttle(LAST, _SLOW)

    async def repair(self) -> None:
        """Speed it up."""
        self.links_of.unthrottle(LAST)
