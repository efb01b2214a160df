"""What runs gave, and whether it is what was promised. Pure."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.routing.balance import balance_of
from benchmarks.routing.engines import Answered, quantile

LATE = 0.015  # seconds that 1 % of the harness's timers may be late, above which a run says nothing
BUSY = 0.8  # of a core that engines or the load generator may use
ORACLE = "oracle"
UNBOUNDED = "oracle, unbounded"
ORACLES = (ORACLE, UNBOUNDED)
OURS = "shoal prefix_affinity"
GENERATED = ("multi-turn", "agents")
TRACE = "trace"


@dataclass(frozen=True)
class Sample:
    """One workload through one target. Times in seconds.

    Attributes:
        requests: how many.
        errors: how many of them failed.
        hit_rate: prompt tokens that engines found in their caches, as a share.
        p50: time to first token, median.
        p90: the same, 90th percentile.
        p99: the same, 99th percentile.
        within: share of the requests whose first token came within the workload's goal.
        peak: imbalance at the worst moment, see `balance`.
        typical: imbalance over the whole time.
        seconds: from the first request to the last answer.
        late: the 99th percentile of the lateness of the harness's timers.
        busy: the most that a part of the harness used of a core.
        router: CPU seconds of the routers per request.
        rate: requests per second that came in the mean, over the usual.
        seed: of the workload.
    """

    requests: int
    errors: int
    hit_rate: float
    p50: float
    p90: float
    p99: float
    within: float
    peak: float
    typical: float
    seconds: float
    late: float = 0.0
    busy: float = 0.0
    router: float = 0.0
    rate: float = 1.0
    seed: int = 1

    @property
    def saturated(self) -> bool:
        """Whether the harness, or the machine under it, was too busy for the numbers to mean anything."""
        return self.late > LATE or self.busy > BUSY


def sample_of(
    answered: Sequence[Answered],
    looks: Iterable[Sequence[int]],
    hit_rate: float,
    goal: float,
    **more: Any,
) -> Sample:
    """Return the figures of a run.

    Args:
        answered: what clients saw of each request.
        looks: open requests of every engine, at equal intervals.
        hit_rate: of the engines.
        goal: seconds in which a first token is wanted.
        more: the other attributes of a sample.
    """
    firsts = [one.first for one in answered if one.first is not None and not one.error]
    balance = balance_of(looks)
    return Sample(
        requests=len(answered),
        errors=sum(bool(one.error) for one in answered),
        hit_rate=hit_rate,
        p50=quantile(firsts, 0.5) if firsts else 0.0,
        p90=quantile(firsts, 0.9) if firsts else 0.0,
        p99=quantile(firsts, 0.99) if firsts else 0.0,
        within=sum(first <= goal for first in firsts) / max(1, len(answered)),
        peak=balance.peak,
        typical=balance.typical,
        seconds=max((one.start + one.end for one in answered), default=0.0),
        **more,
    )


@dataclass
class Row:
    """All samples of a target with a workload and a number of gateways.

    Attributes:
        target: its name.
        version: of the program.
        workload: its name.
        gateways: how many.
        samples: at the usual rate, one for each seed.
        ladder: at other rates.
        problems: what went wrong, sentences.
    """

    target: str
    version: str
    workload: str
    gateways: int
    samples: list[Sample] = field(default_factory=list)
    ladder: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def trusted(self) -> list[Sample]:
        """The samples at the usual rate during which the harness was not saturated."""
        return [sample for sample in self.samples if not sample.saturated]

    def median(self, figure: Callable[[Sample], float]) -> float | None:
        """Return the median over the trusted samples, None without any."""
        values = [figure(sample) for sample in self.trusted]
        return statistics.median(values) if values else None

    @property
    def errors(self) -> int:
        """Failed requests in all samples."""
        return sum(sample.errors for sample in (*self.samples, *self.ladder))

    @property
    def highest_rate(self) -> float | None:
        """The highest rate, over the usual, up to which the 90th percentile was within the goal; 0 for none."""
        rates: dict[float, list[Sample]] = {}
        for sample in (*self.samples, *self.ladder):
            if not sample.saturated:
                rates.setdefault(sample.rate, []).append(sample)
        if len(rates) < 2:
            return None
        best = 0.0
        for rate in sorted(rates):
            if statistics.median(sample.within for sample in rates[rate]) < 0.9:
                break
            best = rate
        return best

    def as_json(self) -> dict[str, Any]:
        """Return everything for a file."""
        return dataclasses.asdict(self)


def row_from_json(data: dict[str, Any]) -> Row:
    """Return what `Row.as_json` gave."""
    samples = [Sample(**one) for one in data["samples"]]
    ladder = [Sample(**one) for one in data["ladder"]]
    return Row(**(data | {"samples": samples, "ladder": ladder}))


def problem_counts(answered: Sequence[Answered]) -> list[str]:
    """Return a sentence for each kind of error, the most frequent first."""
    counts = Counter(one.error for one in answered if one.error)
    return [f"{count} x {text}" for text, count in counts.most_common(3)]


@dataclass(frozen=True)
class Verdict:
    """One promise.

    Attributes:
        held: whether it was kept; None when it cannot be said.
        text: what was wanted and what there is.
    """

    held: bool | None
    text: str


def _find(rows: Sequence[Row], target: str, workload: str, gateways: int) -> Row | None:
    for row in rows:
        if (row.target, row.workload, row.gateways) == (target, workload, gateways):
            return row
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


def _lowest(
    rows: Sequence[Row], figure: Callable[[Sample], float], keep: Callable[[Row], bool]
) -> tuple[float, str] | None:
    found = [(value, row.target) for row in rows if keep(row) and (value := row.median(figure)) is not None]
    return min(found, default=None)


def _is_peer(row: Row) -> bool:
    return not row.target.startswith("shoal") and row.target not in ORACLES


def _is_ours(row: Row) -> bool:
    return row.target.startswith("shoal") and row.target != OURS


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Return what was promised of prefix_affinity, each with whether it holds."""
    verdicts: list[Verdict] = []
    for gateways in sorted({row.gateways for row in rows}):
        for workload in dict.fromkeys(row.workload for row in rows):
            group = [row for row in rows if (row.workload, row.gateways) == (workload, gateways)]
            verdicts += _judge_group(group, workload, gateways)
    failed = {row.target: row.errors for row in rows if row.target.startswith("shoal") and row.errors}
    said = ", ".join(f"{name}: {count}" for name, count in failed.items())
    verdicts.append(Verdict(not failed, f"no request failed through Shoal{': ' + said if said else ''}"))
    return verdicts


def _judge_group(rows: Sequence[Row], workload: str, gateways: int) -> list[Verdict]:
    ours = next((row for row in rows if row.target == OURS), None)
    if ours is None or not ours.trusted:
        return []
    where = f"{workload}, {gateways} gateway{'s' if gateways > 1 else ''}"
    found: list[Verdict] = []
    if workload in GENERATED:
        found += _p90(rows, ours, where)
    if workload == TRACE:
        for name, figure in (("p50", lambda s: s.p50), ("p99", lambda s: s.p99)):
            mine, best = ours.median(figure), _lowest(rows, figure, _is_peer)
            if mine is not None and best is not None:
                text = f"{where}: {name} {_ms(mine)}, at most {_ms(best[0])} ({best[1]})"
                found.append(Verdict(mine <= best[0], text))
    share = 0.95 if gateways == 1 else 0.9
    oracle = _find(rows, ORACLE, workload, gateways)
    mine, known = ours.median(lambda s: s.hit_rate), oracle and oracle.median(lambda s: s.hit_rate)
    if mine is not None and known:
        text = f"{where}: hit rate {mine:.3f}, at least {share * known:.3f} ({share:.0%} of the oracle's)"
        found.append(Verdict(mine >= share * known, text))
    peak = ours.median(lambda s: s.peak)
    if peak is not None:
        limits = (
            f"; the oracle's {known_peak:.2f}"
            if (known_peak := oracle and oracle.median(lambda s: s.peak))
            else ""
        )
        found.append(
            Verdict(peak <= 2.0, f"{where}: fullest engine {peak:.2f} x the mean, at most 2{limits}")
        )
    return found


def _p90(rows: Sequence[Row], ours: Row, where: str) -> list[Verdict]:
    found = []
    mine = ours.median(lambda s: s.p90)
    peer, other = _lowest(rows, lambda s: s.p90, _is_peer), _lowest(rows, lambda s: s.p90, _is_ours)
    oracle = next((row.median(lambda s: s.p90) for row in rows if row.target == ORACLE), None)
    known = f"; the oracle's {_ms(oracle)}" if oracle is not None else ""
    if mine is not None and peer is not None:
        text = f"{where}: p90 {_ms(mine)}, at most {_ms(0.8 * peer[0])} (20 % below {peer[1]}){known}"
        found.append(Verdict(mine <= 0.8 * peer[0], text))
    if mine is not None and other is not None:
        text = f"{where}: p90 {_ms(mine)}, below {_ms(other[0])} ({other[1]})"
        found.append(Verdict(mine < other[0], text))
    return found
