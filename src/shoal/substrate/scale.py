"""How many engines a model should have, by what waits for them and how long first tokens take. Pure, no clock.

Up quickly and down slowly: too much for `up_after` seconds starts more, and one engine stops only after one less
would have been enough for `down_after` seconds all the time. The two conditions exclude each other and leave room
between them, so that steady load changes nothing.
"""

from __future__ import annotations

import math

import msgspec

from shoal.config.replicas import Replicas

BUSY = 0.7
"""Share of what the engines that stay can run at once that may be in use when one stops."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's engines have to do at one moment.

    Attributes:
        ready: engines that answer.
        waiting: requests that wait, in gateways and in engines.
        running: requests that engines compute.
        capacity: requests that an engine computes at once, by its own limits; 0 where not known.
        ttft: seconds within which nine of ten streams of late had their first token; None without streams.
    """

    ready: int
    waiting: int = 0
    running: int = 0
    capacity: int = 0
    ttft: float | None = None


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, and since when it seems wrong.

    Attributes:
        engines: how many there should be.
        above: since when there is too much for them, seconds on the caller's clock; None if there is not.
        below: since when one less would be enough, likewise.
    """

    engines: int
    above: float | None = None
    below: float | None = None


def start(bounds: tuple[int, int], found: int = 0) -> Scale:
    """Return what to begin with: as many engines as are found, within the bounds."""
    return Scale(engines=min(max(found, bounds[0]), bounds[1]))


def step(scale: Scale, settings: Replicas, demand: Demand, now: float) -> tuple[Scale, str]:
    """Return what follows from the demand, and the reason if the number of engines changes ("" else).

    Args:
        scale: what was decided last.
        settings: the model's; with bounds.
        demand: the present one.
        now: seconds on a steady clock.
    """
    bounds = settings.bounds
    assert bounds is not None
    least, most = bounds
    if not least <= scale.engines <= most:
        engines = min(max(scale.engines, least), most)
        return Scale(engines=engines), f"`replicas` allows {least} to {most}"
    above = _since(scale.above, _why_more(settings, demand), now)
    below = _since(scale.below, _enough_with_one_less(scale.engines, settings, demand), now)
    # Those that were asked for last must be there first: until then nobody knows whether they are enough.
    settled = demand.ready >= scale.engines
    if above is not None and settled and now - above >= settings.up_after and scale.engines < most:
        by_queue = math.ceil(demand.waiting / settings.queue)
        engines = min(most, max(scale.engines + 1, min(2 * scale.engines, by_queue)))
        return Scale(engines=engines), _why_more(settings, demand)
    if below is not None and now - below >= settings.down_after and scale.engines > least:
        why = f"one less was enough for {settings.down_after:g} s"
        return Scale(engines=scale.engines - 1), why
    return Scale(engines=scale.engines, above=above, below=below), ""


def quantile(bounds: tuple[float, ...], counts: tuple[int, ...], share: float) -> float | None:
    """Return the upper bound of the bucket that `share` of all observations are within; None without any.

    Args:
        bounds: upper bounds of all buckets but the last, which has none.
        counts: observations in each bucket.
        share: such as 0.9.
    """
    total = sum(counts)
    if total <= 0:
        return None
    seen = 0
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        seen += count
        if seen >= share * total:
            return bound
    return math.inf


def _since(before: float | None, holds: object, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before


def _why_more(settings: Replicas, demand: Demand) -> str:
    """Return why there is too much for the engines, "" if there is not."""
    engines = max(demand.ready, 1)
    if demand.waiting > settings.queue * engines:
        have = "1 engine" if demand.ready == 1 else f"{demand.ready} engines"
        return f"{demand.waiting} requests wait for {have} (`replicas.queue` is {settings.queue})"
    if settings.ttft is not None and demand.ttft is not None and demand.ttft > settings.ttft:
        return f"first tokens take {demand.ttft:g} s (`replicas.ttft` is {settings.ttft:g} s)"
    return ""


def _enough_with_one_less(engines: int, settings: Replicas, demand: Demand) -> bool:
    if demand.ready < engines or engines < 2 or demand.waiting:
        return False
    each = demand.capacity or settings.queue
    quick = settings.ttft is None or demand.ttft is None or demand.ttft <= settings.ttft / 2
    return quick and demand.running <= BUSY * each * (engines - 1)
