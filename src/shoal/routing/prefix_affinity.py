"""Prefix affinity: the engine that has to do least before it can begin to answer.

Everything is counted in one unit, bytes of prompt an engine computes anew: those of this request that its cache
lacks, those of earlier requests that it has not finished yet, and each request it has open at the price of so many
bytes, as it slows the others down. Knowing a prefix and being busy are thus weighed against each other, not one after
the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from shoal.routing.ask import Ask
from shoal.routing.loads import Loads
from shoal.routing.prefix_table import PrefixTable, column
from shoal.routing.prompt import ENDS
from shoal.routing.table import EngineTarget

MISS: Final = 2
"""What is missing counts so many times: for the request that waits for it, and for those that wait behind it, and whose
prompts it drives from the cache."""

REQUEST: Final = 1024
"""Bytes of prompt that an open request counts as."""

WAITING: Final = 4096
"""Bytes that a request counts as in addition while it waits in the engine's own queue: its batch or cache is full."""

FULL: Final = 950
"""KV cache use, in thousandths, from which on an engine is avoided: what it takes in throws out what others need."""

SPREAD: Final = 1.75
"""An engine with more than this times the mean of open requests (by weight) gets none, whatever it knows."""

ALWAYS: Final = 7
"""Open requests up to which it gets some all the same: a mean of few says nothing."""

_DEPTHS: Final = (0, *ENDS)


def _nobody(slot: int, hashes: Sequence[int]) -> None:
    """Tell nobody."""


class PrefixAffinity:
    """Picks the engine with the least work in front of and in the request.

    Equal ones: by rendezvous hashing of the first block nobody has, so that gateways that have not heard of each other
    yet put the same conversation on the same engine.

    Args:
        seed: where the turns of requests without a prompt start.
        table: who has what; shared by the node's workers.
        loads: what else there is to know of engines.
        learned: called with an engine's slot and the hashes of blocks it was not known to have.
        clock: milliseconds, the same for all users of the table.
    """

    uses_load = True
    uses_prompt = True

    def __init__(
        self,
        seed: int,
        table: PrefixTable,
        loads: Loads,
        learned: Callable[[int, Sequence[int]], None] = _nobody,
        clock: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._turn = seed
        self._table = table
        self._loads = loads
        self._learned = learned
        self._clock = clock
        self._engines: Sequence[EngineTarget] = ()
        self._bits: list[int] = []
        self._nothing: list[int] = []
        self._all = 0
        self._work: list[Sequence[int]] = []
        self._names: list[bytes] = []
        self._weights: list[float] = []
        self._even = True

    def pick(self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask) -> int:
        """Return the index of the engine that would begin its answer soonest."""
        if engines is not self._engines:
            self._prepare(engines)
        prompt = ask.prompt()
        hashes = prompt.hashes
        if not hashes:
            index = self._least(self._costs(engines, in_flight, self._nothing, prompt.size), hashes, 0)
            ask.work = prompt.size
            return index
        match = self._table.match(hashes, self._all)
        ends = match.ends
        bits = self._bits
        # Mostly all have the same, that is nothing.
        same = len(ends) == 1
        saved = [_DEPTHS[ends[0][1]]] * len(bits) if same else [_DEPTHS[match.blocks(bit)] for bit in bits]
        costs = self._costs(engines, in_flight, saved, prompt.size)
        index = self._least(costs, hashes, len(match.places))
        ask.work = prompt.size - saved[index]
        news = self._table.put(hashes, bits[index], self._clock(), match.places)
        if news:
            self._learned(engines[index].slot, news)
        return index

    def weighs(
        self, engines: Sequence[EngineTarget], in_flight: Sequence[int], ask: Ask
    ) -> list[dict[str, float]]:
        """Return for each engine what `pick` would go by, without picking: to explain a choice.

        ``cached`` and ``missing`` are bytes of the prompt, ``work`` those under way to the engine, ``kv`` the share of
        its cache in use, ``cost`` the sum that is compared; ``over`` is 1 for one that has more than its share.
        """
        if engines is not self._engines:
            self._prepare(engines)
        prompt = ask.prompt()
        match = self._table.match(prompt.hashes, self._all)
        saved = [_DEPTHS[match.blocks(bit)] if prompt.hashes else 0 for bit in self._bits]
        rows: list[dict[str, float]] = []
        costs = self._costs(engines, in_flight, saved, prompt.size)
        for engine, have, work, cost in zip(engines, saved, self._work, costs, strict=True):
            row: dict[str, float] = {
                "cached": have,
                "missing": prompt.size - have,
                "work": sum(work),
                "queued": self._loads.waiting[engine.slot],
                "kv": self._loads.kv_permille[engine.slot] / 1000,
                "cost": round(cost % _OVER),
            }
            rows.append(row | {"over": 1} if cost >= _OVER else row)
        return rows

    def _prepare(self, engines: Sequence[EngineTarget]) -> None:
        self._engines = engines
        self._bits = [column(engine.slot) for engine in engines]
        self._nothing = [0] * len(engines)
        self._all = 0
        for bit in self._bits:
            self._all |= bit
        self._work = [self._loads.work(engine.slot) for engine in engines]
        self._names = [engine.id.encode() for engine in engines]
        weights = [engine.weight for engine in engines]
        mean = sum(weights) / len(weights)
        self._weights = [weight / mean for weight in weights]
        self._even = min(weights) == max(weights)

    def _costs(
        self, engines: Sequence[EngineTarget], in_flight: Sequence[int], saved: Sequence[int], size: int
    ) -> list[float]:
        """Return bytes of work until each engine would begin its answer; those at their limit cost endlessly much."""
        loads = self._loads
        outside, waiting, kv = loads.outside, loads.waiting, loads.kv_permille
        limit = max(ALWAYS, SPREAD * (sum(in_flight) + 1) / len(in_flight))
        costs: list[float] = []
        for engine, open_, work, have, weight in zip(
            engines, in_flight, self._work, saved, self._weights, strict=True
        ):
            slot = engine.slot
            cost = (
                MISS * (size - have) + sum(work) + REQUEST * (open_ + outside[slot]) + WAITING * waiting[slot]
            )
            if kv[slot] > FULL:
                cost += size
            if not self._even:
                if open_ + 1 > limit * weight and open_ + 1 > ALWAYS:
                    cost += _OVER
                costs.append(cost / weight)
            elif open_ + 1 > limit:
                costs.append(cost + _OVER)
            else:
                costs.append(cost)
        return costs

    def _least(self, costs: Sequence[float], hashes: Sequence[int], known: int) -> int:
        """Return the index of the least cost; of several equal ones, that which every gateway would take."""
        least = min(costs)
        if costs.count(least) == 1:
            return costs.index(least)
        if not hashes:
            # Once around, beginning after the engine picked last.
            size = len(costs)
            start = self._turn % size
            index = [*costs, *costs].index(least, start) % size
            self._turn = index + 1
            return index
        key = hashes[min(known, len(hashes) - 1)]
        names = self._names
        best, most = 0, -1
        for index, cost in enumerate(costs):
            if cost == least:
                mine = xxh3_64_intdigest(names[index], key)
                if mine > most:
                    best, most = index, mine
        return best


_OVER: Final = 1 << 60
