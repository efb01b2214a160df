"""Which version of a record holds, ids, and what clients see."""

import msgspec

from shoal.batch.records import (
    BatchRecord,
    batch_document,
    batch_of,
    common_length,
    decode,
    encode,
    is_id,
    new_id,
    result_ids,
    supersedes,
)

RECORD = BatchRecord(
    id="batch_1",
    created_at=1,
    owner="a",
    holders=("a", "b"),
    endpoint="/v1/completions",
    input_file_id="file-1",
    output_file_id="file-1out",
    error_file_id="file-1err",
    completion_window="24h",
    expires_at=86_401,
)


def test_the_higher_generation_holds_then_the_lower_name_then_the_later_revision():
    assert supersedes((2, "b", 0), (1, "a", 99))
    assert supersedes((2, "a", 0), (2, "b", 99))
    assert supersedes((2, "a", 2), (2, "a", 1))
    assert not supersedes((2, "a", 1), (2, "a", 1))
    for one in ((1, "a", 1), (1, "b", 1), (2, "a", 0)):
        for other in ((1, "a", 1), (1, "b", 1), (2, "a", 0)):
            assert one == other or supersedes(one, other) != supersedes(other, one)


def test_what_a_former_owner_wrote_beyond_its_successors_beginning_is_void():
    record = msgspec.structs.replace(RECORD, generation=3, starts=((2, 100, 10), (3, 80, 20)))
    assert common_length(record, 1) == (80, 10)
    assert common_length(record, 2) == (80, 20)
    assert common_length(record, 3)[0] > 1 << 60


def test_ids_sort_by_time_and_say_whose_results_a_file_has():
    first = new_id("file-")
    assert is_id(first)
    assert not is_id("file-../x")
    assert not is_id("x")
    batch = new_id("batch_")
    output, errors = result_ids(batch)
    assert batch_of(output) == batch_of(errors) == batch
    assert is_id(output)
    assert batch_of(first) is None


def test_records_survive_their_way():
    assert decode(encode(RECORD)) == RECORD


def test_files_are_named_when_there_are_some_and_the_batch_has_ended():
    running = batch_document(msgspec.structs.replace(RECORD, status="in_progress", output=5))
    assert running["output_file_id"] is None
    ended = batch_document(msgspec.structs.replace(RECORD, status="completed", output=5))
    assert ended["output_file_id"] == "file-1out"
    assert ended["error_file_id"] is None
    assert ended["shoal"]["copies"] == ["a", "b"]
