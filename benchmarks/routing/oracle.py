"""What routing could reach: a router that knows every engine's cache and queue exactly, bounded or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.routing.balance import FEW
from benchmarks.routing.virtual import VirtualEngine, block_hashes
from shoal.sim.scheduler import Request

BOUND = 2.0
"""Times the mean of open requests that an engine may have at most: what is demanded of Shoal, too."""


class Oracle:
    """Sends each request where it is cheapest, by the engines' true caches and queues.

    The cost is the time until its first token, and once more the time that its prompt keeps the engine busy: others
    wait for that, and what is computed twice takes the place of other blocks. What it does not know is the future.
    (Measured with weights from 0 to 4 of the second part: 1 is among the best 90th percentiles on every workload.)

    Args:
        engines: which to choose among; it looks into them.
        bound: times the mean of open requests above which no request is added to an engine, the request itself counted
            in both; a mean below `FEW` counts as that, as in `balance`. None for no bound.
        hit_weight: of the second part of the cost.
    """

    def __init__(
        self, engines: Sequence[VirtualEngine], bound: float | None = BOUND, hit_weight: float = 1.0
    ) -> None:
        self._engines = engines
        self._bound = bound
        self._hit_weight = hit_weight

    def choose(
        self, gateway: int, path: str, body: bytes, prompt: Sequence[int], now: float
    ) -> tuple[int, int]:
        """See `Router`."""
        size = self._engines[0].hardware.block
        hashes = block_hashes(prompt, size)
        limit = self._limit()
        costs = []
        for index, engine in enumerate(self._engines):
            if engine.open + 1 > limit:
                continue
            found = len(engine.pool.match(hashes)) * size
            wait = self._backlog(engine, now)
            own = (len(prompt) - found) * engine.hardware.prefill_us * 1e-6
            costs.append((wait + own * (1.0 + self._hit_weight), engine.open, index))
        return min(costs)[2], 0

    def _limit(self) -> float:
        """Return the open requests up to which an engine may be filled; there is always one with fewer."""
        if self._bound is None:
            return math.inf
        mean = (sum(engine.open for engine in self._engines) + 1) / len(self._engines)
        return self._bound * max(mean, FEW)

    def began(self, gateway: int, engine: int, work: int) -> None:
        """See `Router`; nothing is to be noted."""

    def ended(self, gateway: int, engine: int) -> None:
        """See `Router`; nothing is to be noted."""

    def _backlog(self, engine: VirtualEngine, now: float) -> float:
        """Return the seconds until an engine could begin with another prompt."""
        hardware = engine.hardware
        rest = max(0.0, engine.step_ends - now) if engine.open else 0.0
        prefill = decoding = 0
        for request in engine.requests:
            missing = self._missing(engine, request)
            prefill += missing
            decoding += not missing
        steps = 1 + prefill / hardware.max_batched
        each = hardware.decode_ms * 1e-3 + decoding * hardware.decode_us * 1e-6
        return rest + prefill * hardware.prefill_us * 1e-6 + steps * each

    @staticmethod
    def _missing(engine: VirtualEngine, request: Request) -> int:
        """Return the prompt tokens that are still to be computed for a request."""
        if request.state == "waiting":
            size = engine.hardware.block
            if not request.hashes:
                request.hashes = block_hashes(request.tokens, size)
            return len(request.tokens) - len(engine.pool.match(request.hashes)) * size
        left = request.prompt_length - request.computed
        return left if left > 0 else 0
