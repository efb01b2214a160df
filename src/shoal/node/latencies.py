"""How long clients waited for each engine, as gateways counted it: what a canary is compared by.

Each node tells what its own gateway saw; the counts only grow, so that what happened in a while is a difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from shoal.gateway.outcomes import Histogram, Outcome
from shoal.node.orders import Handler
from shoal.node.seen import NotGoodError

LATENCIES = "/shoal/v1/latencies"


class Waits(msgspec.Struct, frozen=True):
    """Times of one kind.

    Attributes:
        count: how many.
        total: seconds, all together.
    """

    count: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds; 0 if there are none."""
        return self.total / self.count if self.count else 0.0


class Latency(msgspec.Struct, frozen=True):
    """What clients of one engine waited for.

    Attributes:
        first: the first event of a stream.
        between: the next event of a stream.
        whole: the end of a good answer.
    """

    first: Waits = Waits()
    between: Waits = Waits()
    whole: Waits = Waits()


Latencies = Mapping[str, Latency]
"""By engine's full id."""


def handlers(outcomes: Callable[[], Iterable[tuple[str, str, Outcome]]]) -> dict[tuple[str, str], Handler]:
    """Return what tells of this node's gateway, by method and path.

    Args:
        outcomes: returns (model, engine's full id, what became of requests).
    """

    async def tell(_: Mapping[str, Any]) -> Any:
        return {
            engine: msgspec.to_builtins(
                Latency(_waits(outcome.first), _waits(outcome.between), _waits(outcome.whole))
            )
            for _, engine, outcome in outcomes()
            if engine
        }

    return {("GET", LATENCIES): tell}


async def all_latencies(nodes: Iterable[str], ask: Callable[[str], Awaitable[Any]]) -> Latencies:
    """Return what all nodes tell, together.

    Args:
        nodes: their names.
        ask: asks one, at `LATENCIES`.

    Raises:
        NotGoodError: one told something else.
    """
    found: dict[str, list[Latency]] = {}
    for node in nodes:
        try:
            told = msgspec.convert(await ask(node), dict[str, Latency])
        except msgspec.ValidationError as error:
            raise NotGoodError(f"node {node} told no latencies: {error}") from None
        for engine, latency in told.items():
            found.setdefault(engine, []).append(latency)
    return {engine: together(parts) for engine, parts in found.items()}


def together(parts: Iterable[Latency]) -> Latency:
    """Return the sum of several."""
    found = Latency()
    for part in parts:
        found = _combined(found, part, 1)
    return found


def since(before: Latency, after: Latency) -> Latency:
    """Return what was added between two looks."""
    return _combined(after, before, -1)


def _combined(a: Latency, b: Latency, sign: int) -> Latency:
    def one(x: Waits, y: Waits) -> Waits:
        return Waits(x.count + sign * y.count, x.total + sign * y.total)

    return Latency(one(a.first, b.first), one(a.between, b.between), one(a.whole, b.whole))


def _waits(histogram: Histogram) -> Waits:
    return Waits(sum(histogram.counts), histogram.total)
