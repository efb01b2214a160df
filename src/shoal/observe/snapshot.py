"""What a node's metrics are made of: plain data, taken in one moment, so that it can be rendered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec

from shoal.cluster.view import View


class Histogram(Protocol):
    """A histogram of the gateway, see `shoal.gateway.outcomes.Histogram`."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds in seconds."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Observations by bucket, the last one without a bound."""
        ...

    @property
    def total(self) -> float:
        """Sum in seconds."""
        ...


class Outcome(Protocol):
    """What became of requests, see `shoal.gateway.outcomes.Outcome`."""

    @property
    def answers(self) -> Mapping[tuple[str, bool], int]:
        """(code, streamed) -> how many."""
        ...

    @property
    def first(self) -> Histogram:
        """Seconds to the first event of streams."""
        ...

    @property
    def between(self) -> Histogram:
        """Seconds between events of streams."""
        ...

    @property
    def whole(self) -> Histogram:
        """Seconds to the end of good answers."""
        ...


class Used(Protocol):
    """What an API key has used of a model."""

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of their prompts."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Tokens of their answers."""
        ...

    @property
    def limited(self) -> int:
        """Requests refused by a limit."""
        ...


class Batches(Protocol):
    """What a node does of batches, see `shoal.batch.counts.BatchCounts`."""

    @property
    def open(self) -> Mapping[str, int]:
        """Batches by status."""
        ...

    @property
    def lines(self) -> Mapping[str, int]:
        """Their lines by state."""
        ...

    @property
    def oldest(self) -> float:
        """Age of the oldest in seconds."""
        ...

    @property
    def window_used(self) -> float:
        """Share of its completion window that is over, of the one with the largest."""
        ...

    @property
    def executed_lines(self) -> Mapping[str, int]:
        """Since the process began, by result."""
        ...

    @property
    def executed_tokens(self) -> Mapping[str, int]:
        """Since the process began, by kind."""
        ...


class Way(NamedTuple):
    """How requests for a node's engines get there, where ``communication.protocol`` is not tcp.

    Attributes:
        peer: the node.
        protocol: that they are to take.
        by_tcp: they go by tcp instead.
    """

    peer: str
    protocol: str
    by_tcp: bool


class Carried(NamedTuple):
    """What became of requests between nodes, where ``communication.protocol`` is not tcp.

    Attributes:
        protocol: that one.
        asked: requests of this node's gateway since the relay began, see `shoal.transport.messages.RelayCounts`.
        served: requests that were brought to engines of this node.
    """

    protocol: str
    asked: Mapping[str, int]
    served: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a node.

    Attributes:
        view: its view.
        totals: sums over its gateway workers; an object with an int attribute for each counter and gauge of
            `shoal.observe.metrics`.
        outcomes: (model, engine's full id, what became of requests); no engine where none has answered, no model
            where the request named none there is.
        dispatched: (engine's full id, requests, faults) of this node's gateway.
        waiting: requests that wait in its gateway, by model.
        keys: (key, model, what it has used).
        datagrams: of the membership, by what became of them.
        events: since the start, by level.
        takeovers: since the start.
        ready: engines the gateway routes to, by model.
        workers: gateway workers that accept connections.
        worker_restarts: since the start.
        versions: of Shoal (``version``), ``vllm``, ``torch`` and ``python``, "" for what is not installed.
        batches: what it does of batches, None where it can do none.
        ways: how requests get to engines, empty where it is by tcp as it should be.
        carried: what became of them, None there.
        engines: (engine's full id, what it said under ``/metrics`` last) of its own engines.
    """

    view: View
    totals: object
    outcomes: tuple[tuple[str, str, Outcome], ...] = ()
    dispatched: tuple[tuple[str, int, int], ...] = ()
    waiting: Mapping[str, int] = {}
    keys: tuple[tuple[str, str, Used], ...] = ()
    datagrams: Mapping[str, int] = {}
    events: Mapping[str, int] = {}
    takeovers: int = 0
    ready: Mapping[str, int] = {}
    workers: int = 0
    worker_restarts: int = 0
    versions: Mapping[str, str] = {}
    batches: Batches | None = None
    ways: tuple[Way, ...] = ()
    carried: Carried | None = None
    engines: tuple[tuple[str, str], ...] = ()
