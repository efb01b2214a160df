"""What Kafka leaves to its clients: which offsets are done, and which partition gets a request. Pure."""

from __future__ import annotations

from collections import Counter

Place = tuple[str, int]
"""A topic and one of its partitions."""


class Offsets:
    """Messages of one partition that were begun, in any order, and are done, in any other.

    Kafka keeps one number per partition: all before it is done.
    """

    def __init__(self) -> None:
        self._open: dict[int, bool] = {}  # offset -> whether it is done, in the order of offsets
        self._last = -1

    def take(self, offset: int) -> None:
        """Begin with a message. One that is not after those before tells that the topic was made anew."""
        if offset <= self._last:
            self._open.clear()
        self._last = offset
        self._open[offset] = False

    def done(self, offset: int) -> int | None:
        """Note that a message is done; return what may be committed now, None for nothing new."""
        if self._open.get(offset) is not False:
            return None
        self._open[offset] = True
        committed = None
        while self._open and self._open[first := next(iter(self._open))]:
            del self._open[first]
            committed = first + 1
        return committed


class Spread:
    """Which partition a request goes to.

    Each partition is read by one node, so a request waits for that node and no other. Which node has a partition shows
    when requests are taken from it. The node that the gateway has picked comes first; else the partition, or its node,
    with the least from here.
    """

    def __init__(self) -> None:
        self._owners: dict[Place, str] = {}
        self._open: dict[str, Place] = {}  # requests that are under way from here
        self._load: Counter[Place] = Counter()
        self._turn = 0

    def pick(self, id: str, topic: str, partitions: int, inbox: str) -> int:  # noqa: A002
        """Return the partition for a request, the picked node's where that is known.

        Args:
            id: of the request; the one before of the same id, if it is sent again, is avoided.
            topic: it goes to.
            partitions: of the topic.
            inbox: of the node that the gateway has picked.
        """
        before = self._open.get(id)
        avoided = self._owners.pop(before, None) if before is not None else None
        self.over(id)
        places = [(topic, number) for number in range(partitions)]
        self._turn += 1
        turned = [places[(self._turn + n) % partitions] for n in range(partitions)]
        free = [
            place
            for place in turned
            if place != before and (avoided is None or self._owners.get(place) != avoided)
        ]
        wanted = [place for place in free if self._owners.get(place) == inbox]
        nodes: Counter[str] = Counter()
        for place, count in self._load.items():
            nodes[self._owners.get(place, "")] += count
        place = min(
            wanted or free or turned,
            key=lambda p: (nodes[self._owners[p]] if p in self._owners else self._load[p], self._load[p]),
        )
        self._open[id] = place
        self._load[place] += 1
        return place[1]

    def taken(self, id: str, inbox: str) -> None:  # noqa: A002
        """Learn from a request that was taken which node has its partition."""
        if (place := self._open.get(id)) is not None:
            self._owners[place] = inbox

    def over(self, id: str) -> None:  # noqa: A002
        """Forget a request."""
        if (place := self._open.pop(id, None)) is not None:
            self._load[place] -= 1
            if not self._load[place]:
                del self._load[place]
