"""What a fault is: how it strikes, how it is told that it was noticed, and that all is well again."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.chaos.cluster import Cluster, full_strength
from benchmarks.chaos.network import Namespaces, Network
from benchmarks.chaos.results import Request

NODES = 3
LAST = NODES - 1  # the victim of faults of whole nodes
OTHERS = (0, 1)  # where load enters then: what a load balancer or a client with a list of nodes would do


class Detection(Enum):
    """What counts as noticed."""

    STATUS = "status"  # a surviving node says so
    STREAMS = "streams"  # the last stream it silenced went on, or ended
    NOTHING = "nothing"  # there is nothing to notice: it should change nothing


class Fault(ABC):
    """One fault, for one trial.

    Args:
        cluster: what it strikes.
        trial: number of the trial, from 0 on: victims take turns.
        requests: all requests so far; grows meanwhile.

    Attributes:
        name: in the table.
        meaning: one sentence for the documentation: what is done, what counts as noticed, what as well again.
        entries: indices of the nodes that load enters through.
        detection: what counts as noticed.
        hold: seconds until somebody repairs it, for faults that nobody but people can repair. Recovery is counted from
            the repair then, else from the fault.
        links: whether it needs links between machines.
        root: whether it needs root.
        settings: sections of the cluster's configuration that it needs.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    entries: ClassVar[tuple[int, ...]] = (0, 1, 2)
    detection: ClassVar[Detection] = Detection.STATUS
    hold: ClassVar[float | None] = None
    links: ClassVar[bool] = False
    root: ClassVar[bool] = False
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, cluster: Cluster, trial: int, requests: list[Request]) -> None:
        self.cluster = cluster
        self.trial = trial
        self.requests = requests
        self.victim = LAST

    @classmethod
    def prepare(cls, cluster: Cluster, cache: Path, stack: ExitStack) -> None:
        """Make ready what it needs before the nodes start; `stack` undoes it after they have ended.

        Raises:
            UnavailableError: it cannot be had here.
        """
        del cluster, cache, stack  # most need nothing

    @property
    def observer(self) -> int:
        """A node that is not the victim."""
        return (self.victim + 1) % NODES

    @property
    def links_of(self) -> Namespaces:
        """The network, where there are links."""
        assert isinstance(self.cluster.network, Namespaces)
        return self.cluster.network

    async def begin(self) -> None:  # noqa: B027 (most need nothing)
        """Look at what must be known before it strikes."""

    @abstractmethod
    async def strike(self) -> None:
        """Let it happen, now."""

    async def detected(self) -> bool:
        """Return whether it was noticed, for `Detection.STATUS`; or else whether it changed what it should not.

        As another node sees it: the way to the victim may be what is broken.
        """
        status = await self.cluster.status(self.observer)
        return bool(status) and not full_strength(status, NODES)

    async def recovered(self) -> bool:
        """Return whether all is well again."""
        return await self.cluster.full()

    async def repair(self) -> None:  # noqa: B027 (most need nothing)
        """Undo what people would have to undo; safe to call at any time."""

    def problems(self) -> list[str]:
        """Return what is not as it should be after the recovery."""
        return []


def why_not(fault: type[Fault], network: Network) -> str:
    """Return why a fault cannot be tried on `network`, "" if it can."""
    if fault.links and not isinstance(network, Namespaces):
        return "needs links between nodes: network namespaces are not to be had here"
    if fault.root and os.geteuid() != 0:
        return "needs root"
    return ""


def now() -> float:
    """Return the time that everything here is measured on, seconds."""
    return time.monotonic()
