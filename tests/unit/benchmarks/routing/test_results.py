from __future__ import annotations

import dataclasses

import pytest
from benchmarks.routing.balance import FEW, balance_of
from benchmarks.routing.engines import Answered, quantile
from benchmarks.routing.results import (
    LATE,
    ORACLE,
    ORACLES,
    OURS,
    Row,
    Sample,
    judge,
    problem_counts,
    row_from_json,
    sample_of,
)

USUAL = Sample(
    requests=100,
    errors=0,
    hit_rate=0.8,
    p50=0.03,
    p90=0.07,
    p99=0.2,
    within=0.97,
    peak=1.7,
    typical=1.2,
    seconds=10.0,
    late=0.002,
    busy=0.2,
)


def row(target: str, workload: str = "agents", gateways: int = 1, **changes: float) -> Row:
    return Row(target, "1", workload, gateways, [dataclasses.replace(USUAL, **changes)])  # type: ignore[arg-type]


def verdict(rows: list[Row], part: str) -> bool | None:
    (found,) = [one for one in judge(rows) if part in one.text]
    return found.held


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (0.01, 1)])
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(share: float, wanted: int) -> None:
    assert quantile(list(range(10, 0, -1)), share) == wanted


def test_imbalance_is_of_the_worst_moment_and_counts_few_requests_as_chance() -> None:
    assert balance_of([[10, 10], [24, 8], [1, 0]]).peak == 1.5
    assert balance_of([[3, 0, 0]]).peak == 3 / FEW
    assert balance_of([[8, 8], [12, 4]]).typical == 20 / 16
    assert balance_of([]).typical == 1.0


def test_a_sample_counts_errors_and_leaves_them_out_of_times() -> None:
    answered = [Answered("s", n, 0.0, 0.1 * n, 1.0) for n in range(1, 10)]
    answered.append(Answered("s", 10, 0.0, 0.001, 1.0, error="cut"))
    found = sample_of(answered, [], 0.5, goal=0.45)
    assert (found.requests, found.errors, found.within) == (10, 1, 0.4)
    assert found.p50 == pytest.approx(0.5)
    assert problem_counts(answered) == ["1 x cut"]


def test_runs_of_a_harness_that_was_too_busy_do_not_count() -> None:
    one = row("x", p90=0.1)
    one.samples.append(dataclasses.replace(USUAL, p90=9.0, late=2 * LATE))
    assert one.median(lambda sample: sample.p90) == 0.1
    one.samples = one.samples[1:]
    assert one.median(lambda sample: sample.p90) is None


def test_the_highest_rate_is_the_last_before_the_goal_is_missed() -> None:
    one = row("x")
    assert one.highest_rate is None
    for rate, within in ((0.5, 0.99), (1.25, 0.91), (1.5, 0.5), (2.0, 0.95)):
        one.ladder.append(dataclasses.replace(USUAL, rate=rate, within=within))
    assert one.highest_rate == 1.25
    one.ladder[0] = dataclasses.replace(USUAL, rate=0.5, within=0.1)
    assert one.highest_rate == 0.0


@pytest.mark.parametrize(("p90", "held"), [(0.07, True), (0.09, False)])
def test_generated_load_wants_a_fifth_less_than_the_best_peer(p90: float, held: bool) -> None:
    rows = [
        row(OURS, p90=p90),
        row("smg x", p90=0.1),
        row("vllm-router x", p90=0.3),
        row("shoal session", p90=1),
    ]
    assert verdict(rows, "20 % below smg x") is held
    assert verdict(rows, "below 1,000 ms (shoal session)")


def test_an_oracle_is_no_peer() -> None:
    rows = [row(OURS, p90=0.07), row("smg x", p90=0.1), *(row(name, p90=0.01) for name in ORACLES)]
    assert verdict(rows, "20 % below smg x") is True


def test_the_trace_wants_no_more_than_the_best_peer_in_each_quantile() -> None:
    rows = [row(OURS, "trace", p50=0.02, p99=0.3), row("a", "trace", p50=0.03), row("b", "trace", p99=0.25)]
    assert verdict(rows, "p50") is True
    assert verdict(rows, "p99") is False


@pytest.mark.parametrize(("gateways", "held"), [(1, False), (3, True)])
def test_hits_are_judged_by_the_oracles(gateways: int, held: bool) -> None:
    rows = [row(OURS, gateways=gateways, hit_rate=0.74), row(ORACLE, gateways=gateways, hit_rate=0.8)]
    assert verdict(rows, "of the oracle's") is held


def test_an_engine_with_more_than_twice_the_mean_is_told() -> None:
    assert verdict([row(OURS, peak=2.1)], "fullest engine") is False


def test_failed_requests_through_shoal_are_told_and_those_of_others_are_not() -> None:
    assert verdict([row(OURS), row("smg x", errors=3)], "no request failed") is True
    assert verdict([row(OURS), row("shoal session", errors=3)], "shoal session: 3") is False


def test_rows_come_back_from_json() -> None:
    one = row("x")
    one.ladder.append(dataclasses.replace(USUAL, rate=2.0))
    one.problems.append("p")
    assert row_from_json(one.as_json()) == one
