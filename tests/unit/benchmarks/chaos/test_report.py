from typing import Any

from benchmarks.chaos.report import cells, markdown, remarks, show, spread
from benchmarks.chaos.results import Row, Trial
from rich.console import Console

DOCUMENT: dict[str, Any] = {
    "shoal": "0.2.0",
    "date": "2026-01-01",
    "clients": 50,
    "nodes": 3,
    "network": "in network namespaces",
    "load_cores": 0.2,
    "load_average": 0.1,
    "machine": {"cpu": "C", "cores": 2, "memory_gb": 8, "system": "S", "kernel": "6", "python": "3.11"},
}
KILLED = Row(
    "shoal",
    "engine killed",
    trials=[Trial(0.05, 2.3), Trial(0.07, 2.5, last_error=0.2, pause=1.1)],
    requests=1234,
    broken=2,
    reasons={"broken: connection | closed": 2},
)


def test_a_row_shows_counts_and_times_as_median_and_99th_percentile() -> None:
    assert cells(KILLED) == [
        *("engine killed", "2", "1,234", "0", "2", "0"),
        *("0.050 / 0.070", "2.30 / 2.50", "0.000 / 0.20", "0.000 / 1.10"),
    ]
    assert spread([]) == "-"


def test_what_was_not_tried_is_said_with_the_reason() -> None:
    row = Row("shoal", "slow link", skipped="needs root")
    assert remarks(row) == ["slow link: not tried: needs root"]
    assert "| slow link |" not in markdown([KILLED, row], DOCUMENT)
    assert "slow link: not tried: needs root" in markdown([KILLED, row], DOCUMENT)


def test_each_system_has_a_table_of_its_own() -> None:
    text = markdown([KILLED, Row("haproxy 2.6", "engine killed", trials=[Trial()])], DOCUMENT)
    assert "| haproxy 2.6: fault |" in text
    assert "connection \\| closed" in text


def test_a_machine_that_was_busy_before_is_told() -> None:
    assert "busy" not in markdown([KILLED], DOCUMENT)
    assert "load average 2.0" in markdown([KILLED], DOCUMENT | {"load_average": 2.0})


def test_clients_that_went_down_with_their_worker_are_told_apart() -> None:
    row = Row("shoal", "gateway worker killed", excused=4)
    assert remarks(row) == [
        "gateway worker killed: 4 requests went down with the gateway process that carried them"
    ]


def test_everything_is_printed_for_people() -> None:
    console = Console(record=True, width=160, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    show(console, [KILLED], DOCUMENT)
    text = console.export_text()
    assert "engine killed" in text
    assert "2 x broken: connection | closed" in text
    assert "50 concurrent requests, 3 nodes in network namespaces;" in text
