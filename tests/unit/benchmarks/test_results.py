import json

import pytest
from benchmarks.gateway.peers import Kind
from benchmarks.gateway.results import (
    CPU_EVENT,
    CPU_LARGE,
    CPU_REQUEST,
    MEMORY_STREAMS,
    P50,
    P99,
    PAIR,
    RATE,
    WORKER,
    Metric,
    Row,
    Spread,
    judge,
    lowest,
    number,
    ratio,
    row_from_json,
    spread,
)


def row(name: str, kind: Kind, values: dict[Metric, float]) -> Row:
    found = Row(name, kind, "1.0")
    found.add({metric.key: value for metric, value in values.items()})
    return found


def rows(**shoal: float) -> list[Row]:
    """A run in which every budget holds, but for what `shoal` changes."""
    mine = {CPU_REQUEST: 30.0, CPU_EVENT: 20.0, P50: 200.0, P99: 4000.0, CPU_LARGE: 60.0, RATE: 30_000.0}
    mine |= {m: shoal[m.key] for m in mine if m.key in shoal}
    memory = {MEMORY_STREAMS: shoal.get("memory_streams", 40.0)}
    return [
        row(
            "nginx", Kind.PROXY, {CPU_REQUEST: 20.0, CPU_EVENT: 15.0, P50: 110.0, P99: 900.0, CPU_LARGE: 30.0}
        ),
        row("slow-router", Kind.RUST, {CPU_REQUEST: 140.0, CPU_EVENT: 21.0, P99: 9000.0}),
        row("fast-router", Kind.RUST, {CPU_REQUEST: 80.0, CPU_EVENT: 28.0, P99: 5000.0}),
        row("shoal", Kind.SHOAL, mine),
        row(WORKER, Kind.PART, memory),
        row(PAIR, Kind.PART, {RATE: 57_000.0}),
    ]


def test_the_middle_of_three_counts() -> None:
    assert spread([9.0, 1.0, 2.0]) == Spread(2.0, 1.0, 9.0)
    assert spread([]) is None


def test_a_ratio_needs_both_numbers() -> None:
    assert ratio(30.0, 20.0) == 1.5
    assert ratio(None, 20.0) is None
    assert ratio(30.0, None) is None
    assert ratio(30.0, 0.0) is None


def test_the_lowest_is_named() -> None:
    assert lowest(rows(), CPU_EVENT) == ("nginx", 15.0)
    assert lowest([], CPU_EVENT) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "1.2"), (99.94, "99.9"), (145.4, "145"), (5167.0, "5,167"), (45321.0, "45,300")],
)
def test_numbers_have_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_all_budgets_hold_in_a_good_run() -> None:
    verdicts = judge(rows(), 8)
    assert [verdict.held for verdict in verdicts] == [True] * 9


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"cpu_request": 30.1}, "CPU per request: 30.1 µs, at most 30.0 µs (1.5 x nginx)"),
        ({"cpu_request": 36.5}, "CPU per request: 36.5 µs, at most 36.0 µs (0.45 x fast-router)"),
        ({"cpu_event": 22.6}, "CPU per streamed event: 22.6 µs, at most 22.5 µs (1.5 x nginx)"),
        ({"cpu_event": 21.1}, "CPU per streamed event: 21.1 µs, at most 21.0 µs (slow-router)"),
        ({"p50_1": 211.0}, "p50, 1 connection: 211 µs, at most 210 µs (nginx + 100 µs)"),
        ({"p99_32": 5001.0}, "p99, 32 connections: 5,001 µs, at most 5,000 µs (fast-router)"),
        ({"cpu_request_32k": 61.0}, "CPU per request of 32 KB: 61.0 µs, at most 60.0 µs (2 x nginx)"),
        ({"memory_streams": 61.0}, "Memory with 1,000 streams: 61.0 MB, at most 60.0 MB (per worker)"),
        ({"requests_per_s": 40_000.0}, "2 workers on 2 free cores: 1.43 x one, at least 1.8 x"),
    ],
)
def test_a_missed_budget_is_told_with_its_numbers(change: dict[str, float], what: str) -> None:
    assert what in [verdict.text for verdict in judge(rows(**change), 8) if verdict.held is False]


def test_what_was_not_measured_is_not_judged() -> None:
    verdicts = judge([row("shoal", Kind.SHOAL, {CPU_REQUEST: 30.0})], 2)
    assert {verdict.held for verdict in verdicts} == {None}
    assert "needs 4 cores, this machine has 2" in verdicts[-1].text
    assert all("not measured" in verdict.text for verdict in verdicts[:-1])


def test_a_row_survives_json_and_shows_medians() -> None:
    found = Row("x", Kind.RUST, "1.2", problems=["slow"])
    for value in (3.0, 1.0, 2.0):
        found.add({"cpu_request": value})
    document = json.loads(json.dumps(found.as_json()))
    assert document["medians"] == {"cpu_request": 2.0}
    assert row_from_json(document) == found


def test_a_problem_is_noted_once() -> None:
    found = Row("x", Kind.RUST)
    found.problem("broken")
    found.problem("broken")
    assert found.problems == ["broken"]
