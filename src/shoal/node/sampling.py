"""A node's look at itself, every `STEP` seconds: what the console's charts of the last 15 minutes are made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import psutil

from shoal.cluster.view import EngineReport, EngineState
from shoal.engine.gpu import Meter
from shoal.engine.metrics import Load
from shoal.observe.history import STEP, Counters, Ring, sample
from shoal.observe.snapshot import Outcome, Snapshot


class Sampler:
    """Keeps the samples of this node.

    Args:
        snapshot: takes a moment of the node.
        loads: returns what each engine said of its load last, by its id and start.
        gpus: whether the machine has any.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot], loads: Callable[[], Mapping[str, Load]], *, gpus: bool
    ) -> None:
        self._snapshot = snapshot
        self._loads = loads
        self._gpus = Meter() if gpus else None
        self.ring = Ring()

    async def run(self) -> None:
        """Look once in each step, at its end by the clock, for as long as the node lives."""
        before, seen = await self._look(), time.monotonic()
        while True:
            await asyncio.sleep(STEP - time.time() % STEP)
            now, at = await self._look(), time.monotonic()
            self.ring.add(sample(before, now, at - seen, round(time.time() / STEP)))
            before, seen = now, at

    async def _look(self) -> Counters:
        gpu = await asyncio.to_thread(self._gpus.mean) if self._gpus is not None else None
        return counters(self._snapshot(), self._loads(), _cpu(), psutil.virtual_memory().percent / 100, gpu)


def counters(
    snapshot: Snapshot,
    loads: Mapping[str, Load],
    cpu: tuple[float, float] = (0.0, 0.0),
    memory: float = 0.0,
    gpu: float | None = None,
) -> Counters:
    """Return what a node has counted; arguments as in `Sampler` and `Counters`."""
    # What is for no model, the console's own questions among it, is no load.
    outcomes = [outcome for model, engine, outcome in snapshot.outcomes if model or engine]
    return Counters(
        tokens={name: load.generated_tokens for name, load in loads.items()},
        prompt_tokens={name: load.prompt_tokens for name, load in loads.items()},
        requests=sum(sum(outcome.answers.values()) for outcome in outcomes),
        failed=sum(_failed(outcome) for outcome in outcomes),
        first=tuple(sum(column) for column in zip(*(o.first.counts for o in outcomes), strict=True)),
        waiting=sum(snapshot.waiting.values()),
        open=snapshot.totals.open_requests,  # type: ignore[attr-defined]
        kv_usage=tuple(e.kv_usage for e in _ready(snapshot)),
        cpu=cpu,
        memory=memory,
        gpu=gpu,
    )


def _ready(snapshot: Snapshot) -> list[EngineReport]:
    me = snapshot.view.member(snapshot.view.me)
    own = me.report.engines if me is not None and me.report is not None else ()
    return [engine for engine in own if engine.state is EngineState.READY]


def _failed(outcome: Outcome) -> int:
    return sum(count for (code, _), count in outcome.answers.items() if code.startswith("5"))


def _cpu() -> tuple[float, float]:
    """Return the seconds that the machine's CPUs were busy, and all of their seconds."""
    times = psutil.cpu_times()
    # Time of guests is part of that of users (proc(5)).
    passed = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return passed - times.idle - getattr(times, "iowait", 0.0), passed
