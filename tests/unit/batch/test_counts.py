import msgspec

from shoal.batch.counts import Executed, counts
from shoal.batch.records import BatchRecord


def batch(**more: object) -> BatchRecord:
    return BatchRecord(
        **{
            "id": "batch_1",
            "created_at": 100,
            "owner": "a:1",
            "holders": ("a:1",),
            "endpoint": "/v1/completions",
            "input_file_id": "file-1",
            "output_file_id": "file-2",
            "error_file_id": "file-3",
            "completion_window": "24h",
            "expires_at": 900,
            "status": "in_progress",
            "total": 10,
        }
        | more
    )  # type: ignore[arg-type]


def test_lines_by_state_and_the_age_of_the_oldest():
    live = [
        batch(completed=4, failed=1),
        batch(id="batch_2", created_at=150, status="validating", total=0),
        batch(id="batch_3", created_at=1, status="completed", completed=10),
    ]
    told = counts(live, Executed(), now=160.0)
    assert told.open == {"in_progress": 1, "validating": 1}
    assert told.lines == {"completed": 4, "failed": 1, "waiting": 5}
    assert told.oldest == 60
    assert told.window_used == 60 / 800
    none = counts([], Executed(), 1.0)
    assert none.oldest == none.window_used == 0


def test_what_was_executed_here_is_counted_and_never_goes_back():
    executed = Executed()
    before = batch(completed=4, input_tokens=100, output_tokens=50)  # taken over from another node
    executed.note(before, before)
    now = msgspec.structs.replace(before, completed=6, failed=1, input_tokens=160, output_tokens=70)
    executed.note(before, now)
    executed.note(now, before)
    assert executed.lines == {"completed": 2, "failed": 1}
    assert executed.tokens == {"prompt": 60, "completion": 20}
