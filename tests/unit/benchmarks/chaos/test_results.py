import json

from benchmarks.chaos.results import (
    Pause,
    Request,
    Row,
    Trial,
    last_error,
    longest_pause,
    moved_on,
    percentile,
    row_from_json,
)
from benchmarks.chaos.verify import Outcome


def request(began: float, ended: float | None, outcome: Outcome = Outcome.GOOD, *pauses: Pause) -> Request:
    return Request(0, 0, began, ended=ended, outcome=outcome, reason="why", pauses=list(pauses))


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(1, 201)], 0.99) == 198.0


def test_requests_are_counted_by_outcome_and_those_still_open_not_at_all() -> None:
    row = Row("shoal", "engine killed")
    excused = request(0, 1, Outcome.BROKEN)
    excused.excused = True
    row.count(
        [
            request(0, 1),
            request(0, 2, Outcome.BROKEN),
            request(0, 3, Outcome.WRONG),
            request(0, None),
            excused,
        ]
    )
    assert (row.requests, row.failed, row.broken, row.wrong, row.excused) == (4, 0, 1, 1, 1)
    assert row.reasons == {"broken: why": 1, "wrong: why": 1}


def test_the_last_error_of_a_fault_is_that_of_its_own_time() -> None:
    requests = [request(0, t, Outcome.FAILED) for t in (9.0, 11.5, 30.0)] + [request(0, 15.0)]
    assert last_error(requests, fault=10, until=20) == 1.5
    assert last_error(requests, fault=12, until=20) == 0.0


def test_an_excused_request_is_no_error() -> None:
    one = request(0, 11, Outcome.BROKEN)
    one.excused = True
    assert last_error([one], fault=10, until=20) == 0.0


def test_the_longest_pause_counts_when_it_touches_the_fault() -> None:
    requests = [request(0, 40, Outcome.GOOD, Pause(1, 8), Pause(9.9, 12), Pause(25, 33))]
    assert abs(longest_pause(requests, fault=10, until=20) - 2.1) < 1e-9
    assert longest_pause([], fault=10, until=20) == 0.0


def test_streams_have_moved_on_when_the_last_one_that_fell_silent_goes_on() -> None:
    requests = [
        request(0, 40, Outcome.GOOD, Pause(9.9, 13)),
        request(0, 40, Outcome.GOOD, Pause(10.5, 14)),
        request(0, 40, Outcome.GOOD, Pause(12, 19)),  # fell silent later, for another reason
        request(11, 40, Outcome.GOOD, Pause(11, 18)),  # began after the fault
    ]
    assert moved_on(requests, fault=10, until=20) == 4
    assert moved_on(requests[2:], fault=10, until=20) is None


def test_a_row_survives_a_json_file() -> None:
    row = Row("shoal", "engine killed", trials=[Trial(0.1, 2.0, 0.0, 1.0, ["odd"])], requests=7)
    assert row_from_json(json.loads(json.dumps(row.as_json()))) == row
