"""What is run: workloads with their sizes and rates, gateways, repeats. Pure but for the trace's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.routing.engines import SCALE
from benchmarks.routing.generated import AGENTS, MULTI_TURN, generate
from benchmarks.routing.results import TRACE
from benchmarks.routing.trace import Record, read, replay, sample
from benchmarks.routing.workload import Workload

EXCERPT = Path(__file__).with_name("mooncake-excerpt.jsonl")


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        requests: of each workload, about.
        seeds: how many times everything is run, each with other texts and arrivals.
        ladder: other rates, over the usual, that are tried once with one gateway.
        gateways: numbers of them.
        quick: only the targets of a quick run.
        lanes: targets that are measured at the same time, each with engines of its own: most of a run is waiting.
        tries: of a workload, when the machine was too busy.
    """

    requests: Mapping[str, int]
    seeds: int
    ladder: tuple[float, ...]
    gateways: tuple[int, ...] = (1, 3)
    quick: bool = False
    lanes: int = 2
    tries: int = 2


QUICK = Plan({TRACE: 500, "multi-turn": 1000, "agents": 1000}, 1, (), quick=True)
FULL = Plan({TRACE: 1000, "multi-turn": 1000, "agents": 1000}, 3, (0.5, 0.75, 1.25, 1.5), lanes=1, tries=4)

RATES = {TRACE: 40.0, "multi-turn": 240.0, "agents": 300.0}
"""Requests per second: where routing in turn begins to queue, and good routing does not."""

GOALS = {TRACE: 1.0, "multi-turn": 0.25, "agents": 0.25}
"""Seconds in which a first token is wanted; 90 % of the requests have to meet it."""


class Workloads:
    """Makes workloads, each once.

    Args:
        plan: the run.
        trace: a file other than the excerpt that comes with this benchmark.
    """

    def __init__(self, plan: Plan, trace: Path | None = None) -> None:
        self._plan = plan
        self._file = trace or EXCERPT
        self._records: list[Record] | None = None
        self._made: dict[tuple[str, int, float], Workload] = {}

    def make(self, name: str, seed: int, rate: float = 1.0) -> Workload:
        """Return a workload.

        Args:
            name: which.
            seed: another one makes others of the same kind.
            rate: of arrivals, over the usual.

        Raises:
            TraceError: the trace cannot be read.
        """
        key = name, seed, rate
        if key not in self._made:
            self._made[key] = self._make(name, seed, rate * RATES[name])
        return self._made[key]

    def _make(self, name: str, seed: int, rate: float) -> Workload:
        requests = self._plan.requests[name]
        if name == TRACE:
            if self._records is None:
                self._records = read(self._file)
            return replay(sample(self._records, requests, seed), rate, SCALE, seed)
        return generate({"multi-turn": MULTI_TURN, "agents": AGENTS}[name], requests, rate, seed)
