"""The measurements: a mesh of real members, and one node of a large busy cluster."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.scale.child import Child
from benchmarks.scale.cluster import HOST, names

_FIRST = 12_000  # ports of nodes: below those that the kernel gives away by itself
_DEADLINE = 90.0  # s until members see each other
LOSS = 20.0
"""Seconds that all may take to notice a loss."""


class MeshCost(NamedTuple):
    """What a mesh of members costs.

    Attributes:
        cpu: milliseconds of CPU per second and node.
        datagrams: sent per second by each node.
        first: seconds until the first of the others knew that one was lost.
        all: seconds until the last of them knew; None when not all did within `LOSS`.
    """

    cpu: float
    datagrams: float
    first: float | None
    all: float | None


class OneCost(NamedTuple):
    """What one node of a cluster does for the others.

    Attributes:
        cpu: milliseconds of CPU per second.
        sent: datagrams per second.
        received: datagrams per second.
        heartbeat: bytes of one.
        traffic: bytes of what gateways tell, 0 where they tell nothing.
        complete: it saw all others alive, in the end, too.
    """

    cpu: float
    sent: float
    received: float
    heartbeat: int
    traffic: int
    complete: bool

    @property
    def bytes_per_second(self) -> float:
        """Bytes received per second, without the headers of UDP."""
        beats = self.received if not self.traffic else self.received / 11
        return beats * self.heartbeat + (self.received - beats) * self.traffic


class MeasureError(Exception):
    """A measurement did not come about; the text says why."""


def free_names(count: int) -> list[str]:
    """Return names of nodes whose UDP ports are free just now."""
    found: list[int] = []
    for port in range(_FIRST, 32_000):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return names(found)
    raise MeasureError(f"there are no {count} free UDP ports")


def mesh(count: int, processes: int, seconds: float) -> MeshCost:
    """Measure a cluster of real members, several in each process.

    Args:
        count: members.
        processes: to run them in.
        seconds: to look at them.

    Raises:
        MeasureError: they do not see each other in time.
    """
    everybody = free_names(count)
    shares = [everybody[i::processes] for i in range(min(processes, count))]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child("mesh", mine=mine, everybody=everybody)) for mine in shares]
        _all(children, "start")
        _until(
            lambda: all(a["complete"] for a in _all(children, "complete")), f"{count} members see each other"
        )
        before = _all(children, "cost")
        time.sleep(seconds)
        after = _all(children, "cost")
        cpu = sum((b["cpu"] - a["cpu"]) / (b["now"] - a["now"]) for a, b in zip(before, after, strict=True))
        sent = sum(
            (b["sent"] - a["sent"]) / (b["now"] - a["now"]) for a, b in zip(before, after, strict=True)
        )
        victim = shares[0][0]
        for child in children[1:]:
            child.ask("watch", victim=victim)
        at = children[0].ask("lose", victim=victim)["at"]
        noticed: dict[str, float] = {}

        def everybody_knows() -> bool:
            for answer in _all(children, "noticed"):
                noticed.update(answer["at"])
            return len(noticed) == count - 1

        knows = _within(LOSS, everybody_knows)
        delays = [when - at for when in noticed.values()]
    return MeshCost(
        1000 * cpu / count, sent / count, min(delays, default=None), max(delays) if knows else None
    )


def one(count: int, busy: bool, seconds: float) -> OneCost:
    """Measure one node of a cluster of `count`; the others only send it what real ones would.

    Raises:
        MeasureError: it does not see them in time.
    """
    everybody = free_names(count)
    with (
        Child("one", name=everybody[0], everybody=everybody, busy=busy) as node,
        Child("peers", target=everybody[0], everybody=everybody, busy=busy) as others,
    ):
        node.ask("start")
        others.ask("start")
        _until(lambda: bool(node.ask("complete")["complete"]), f"the node sees {count - 1} others")
        before = node.ask("cost")
        time.sleep(seconds)
        after = node.ask("cost")
        complete = bool(node.ask("complete")["complete"])
        sizes = others.ask("sizes")["sizes"]
    span = after["now"] - before["now"]
    return OneCost(
        cpu=1000 * (after["cpu"] - before["cpu"]) / span,
        sent=(after["sent"] - before["sent"]) / span,
        received=(after["received"] - before["received"]) / span,
        heartbeat=sizes["heartbeat"],
        traffic=sizes.get("traffic", 0),
        complete=complete,
    )


def _all(children: list[Child], what: str) -> list[dict[str, Any]]:
    """Ask all children at once."""
    for child in children:
        child.tell(what)
    return [child.answer() for child in children]


def _until(condition: Callable[[], bool], what: str) -> None:
    if not _within(_DEADLINE, condition):
        raise MeasureError(f"not within {_DEADLINE:g} s: {what}")


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Return whether something became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
