"""What was measured, as plain data: samples per target and metric, medians, ratios, the budgets. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.gateway.peers import Kind


@dataclass(frozen=True)
class Metric:
    """One column of the results.

    Attributes:
        key: in the samples.
        title: for people, two short lines.
    """

    key: str
    title: str


CPU_REQUEST = Metric("cpu_request", "CPU µs/request\n1 KB, 64 conn.")
RATE = Metric("requests_per_s", "requests/s\n64 conn.")
P50 = Metric("p50_1", "p50 µs\n1 conn.")
P99 = Metric("p99_32", "p99 µs\n32 conn.")
CPU_LARGE = Metric("cpu_request_32k", "CPU µs/request\n32 KB")
CPU_EVENT = Metric("cpu_event", "CPU µs/event\n64 paced streams")
CPU_UNPACED = Metric("cpu_event_unpaced", "CPU µs/event\n64 unpaced")
TTFT = Metric("ttft_p50", "TTFT p50 µs\n64 paced")
ITL = Metric("itl_p99", "ITL p99 µs\n64 paced")
MEMORY = Metric("memory_idle", "RSS MB\nidle")
MEMORY_STREAMS = Metric("memory_streams", "RSS MB\n1,000 streams")

REQUESTS = (CPU_REQUEST, RATE, P50, P99, CPU_LARGE)
STREAMS = (CPU_EVENT, CPU_UNPACED, TTFT, ITL, MEMORY, MEMORY_STREAMS)


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the samples."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread | None:
    """Return the spread of `samples`, None without any."""
    return Spread(statistics.median(samples), min(samples), max(samples)) if samples else None


@dataclass
class Row:
    """Everything about one target.

    Attributes:
        name: of the target.
        kind: of the target.
        version: of the program.
        samples: by key of the metric, in the order they were taken.
        problems: what went wrong, for people; with no samples at all, why there are none.
    """

    name: str
    kind: Kind
    version: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one sample of each metric in `values`."""
        for key, value in values.items():
            self.samples.setdefault(key, []).append(value)

    def problem(self, text: str) -> None:
        """Note what went wrong, once."""
        if text not in self.problems:
            self.problems.append(text)

    def spread(self, metric: Metric) -> Spread | None:
        """Return the spread of a metric, None if it was not measured."""
        return spread(self.samples.get(metric.key, ()))

    def median(self, metric: Metric) -> float | None:
        """Return the median of a metric, None if it was not measured."""
        found = self.spread(metric)
        return found.median if found else None

    def as_json(self) -> dict[str, Any]:
        """Return the row for a JSON file, with medians for whoever reads only those."""
        medians = {key: statistics.median(values) for key, values in self.samples.items()}
        return asdict(self) | {"kind": self.kind.value, "medians": medians}


def row_from_json(document: Mapping[str, Any]) -> Row:
    """Return the row that `Row.as_json` made."""
    known = {key: document[key] for key in ("name", "version", "samples", "problems")}
    return Row(kind=Kind(document["kind"]), **known)


def ratio(value: float | None, base: float | None) -> float | None:
    """Return how many times `base` is in `value`, None if either was not measured."""
    return value / base if value is not None and base else None


def lowest(rows: Iterable[Row], metric: Metric) -> tuple[str, float] | None:
    """Return the name and median of the row that is lowest in `metric`, None if none was measured."""
    found = [(median, row.name) for row in rows if (median := row.median(metric)) is not None]
    return min(found)[::-1] if found else None


@dataclass(frozen=True)
class Verdict:
    """A budget and whether it holds.

    Attributes:
        held: None: it could not be judged.
        text: a sentence with the numbers.
    """

    held: bool | None
    text: str


@dataclass(frozen=True)
class _Budget:
    what: str
    value: float | None
    rule: str
    limit: float | None
    unit: str = "µs"

    def verdict(self) -> Verdict:
        if self.value is None or self.limit is None:
            return Verdict(None, f"{self.what}: {self.rule}: not measured")
        compared = f"{number(self.value)} {self.unit}, at most {number(self.limit)} {self.unit} ({self.rule})"
        return Verdict(self.value <= self.limit, f"{self.what}: {compared}")


def number(value: float) -> str:
    """Return a number with as many digits as mean something: ``22.4``, ``145``, ``45,300``."""
    if value >= 10_000:
        return f"{round(value, -2):,.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


MEMORY_LIMIT = 60.0  # MB per worker with 1,000 open streams
SCALING = 1.8  # requests/s of two workers on two cores, over those of one


def judge(rows: Sequence[Row], cores: int) -> list[Verdict]:
    """Return the verdict on each budget of the gateway.

    Args:
        rows: all targets. Shoal is judged by its whole process tree.
        cores: of the machine.
    """
    by_name = {row.name: row for row in rows}
    shoal, nginx = (
        by_name.get("shoal", Row("shoal", Kind.SHOAL)),
        by_name.get("nginx", Row("nginx", Kind.PROXY)),
    )
    worker = by_name.get(WORKER, Row(WORKER, Kind.PART))
    rust = [row for row in rows if row.kind is Kind.RUST]

    def against_nginx(what: str, metric: Metric, factor: float) -> _Budget:
        base = nginx.median(metric)
        return _Budget(
            what, shoal.median(metric), f"{factor:g} x nginx", None if base is None else factor * base
        )

    def against_rust(what: str, metric: Metric, factor: float, rule: str) -> _Budget:
        best = lowest(rust, metric)
        if best is None:
            return _Budget(what, shoal.median(metric), rule.format(name="the best Rust router"), None)
        return _Budget(what, shoal.median(metric), rule.format(name=best[0]), factor * best[1])

    p50 = nginx.median(P50)
    budgets = [
        against_nginx("CPU per request", CPU_REQUEST, 1.5),
        against_rust("CPU per request", CPU_REQUEST, 0.45, "0.45 x {name}"),
        against_nginx("CPU per streamed event", CPU_EVENT, 1.5),
        against_rust("CPU per streamed event", CPU_EVENT, 1.0, "{name}"),
        _Budget("p50, 1 connection", shoal.median(P50), "nginx + 100 µs", None if p50 is None else p50 + 100),
        against_rust("p99, 32 connections", P99, 1.0, "{name}"),
        against_nginx("CPU per request of 32 KB", CPU_LARGE, 2.0),
        _Budget("Memory with 1,000 streams", worker.median(MEMORY_STREAMS), "per worker", MEMORY_LIMIT, "MB"),
    ]
    return [*(budget.verdict() for budget in budgets), _scaling(shoal, by_name.get(PAIR), cores)]


WORKER = "shoal, worker alone"
PAIR = "shoal, 2 workers"


def _scaling(one: Row, two: Row | None, cores: int) -> Verdict:
    gain = ratio(two.median(RATE) if two else None, one.median(RATE))
    if gain is None:
        why = f"needs 4 cores, this machine has {cores}" if cores < 4 else "not measured"
        return Verdict(None, f"2 workers on 2 free cores: at least {SCALING} x one: {why}")
    return Verdict(gain >= SCALING, f"2 workers on 2 free cores: {gain:.2f} x one, at least {SCALING} x")
