from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.routing.plan import EXCERPT
from benchmarks.routing.trace import BLOCK, Record, TraceError, compress, expand, read, replay, sample
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim import text

SCALE = 4


def record(at: float, *blocks: int, prompt: int = 0, answer: int = 40) -> Record:
    return Record(at, prompt or BLOCK * len(blocks), answer, blocks)


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_ids_are_written_as_ranges_and_read_again(numbers: list[int]) -> None:
    assert expand(compress(numbers)) == tuple(numbers)


def test_a_trace_is_read_in_mooncakes_format_and_with_ranges(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    fields = {"input_length": 1030, "output_length": 7}
    lines = [
        {"timestamp": 3000, "hash_ids": "0,5-6"} | fields,
        {"timestamp": 0, "hash_ids": [0, 1, 2]} | fields,
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert read(file) == [Record(0.0, 1030, 7, (0, 1, 2)), Record(3.0, 1030, 7, (0, 5, 6))]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("", "has no request"),
        ("{}", "trace.jsonl:1 is no request of a trace"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []}', "a prompt is empty"),
        ("\nnot json", "trace.jsonl:2 is no request"),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(tmp_path: Path, content: str, wanted: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(content)
    with pytest.raises(TraceError, match=wanted):
        read(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read(tmp_path / "missing")


def test_a_sample_has_whole_conversations() -> None:
    records = [record(n, 0, 100 + n % 10, 1000 + n) for n in range(100)]  # 10 conversations of 10 requests
    taken = sample(records, 30, seed=1)
    assert len(taken) == 30
    assert len({one.blocks[1] for one in taken}) == 3
    assert taken != sample(records, 30, seed=2)


def test_equal_ids_become_equal_text_and_lengths_are_scaled() -> None:
    records = [record(0, 0, 1), record(3, 0, 1, 2, prompt=1100), record(6, 0, 7, answer=1)]
    made = replay(records, rate=10, scale=SCALE, seed=1)
    prompts = {round(one.turns[0].wait + one.start, 3): one.turns[0] for one in made.sessions}
    first, second, third = (prompts[key].text for key in sorted(prompts))
    assert second.startswith(first)
    shared = BLOCK // SCALE * 5
    assert third[:shared] == first[:shared] != third[shared : 2 * shared]
    assert [len(text.encode(one)) for one in (first, second, third)] == [256, 275, 256]
    assert sorted(turn.answer for turn in prompts.values()) == [1, 10, 10]


def test_arrivals_keep_their_order_of_grains_and_come_at_the_wanted_rate() -> None:
    records = [record(3.0 * (n // 4), 0, n) for n in range(400)]
    made = replay(records, rate=20, scale=SCALE, seed=1)
    starts = [one.start for one in made.sessions]
    assert starts == sorted(starts)
    assert 19 < starts[-1] < 21
    assert len(set(starts)) == 400


def test_the_excerpt_has_what_the_trace_is_like() -> None:
    records = read(EXCERPT)
    assert len(records) == 1000
    assert len({one.blocks[0] for one in records}) == 1  # all begin alike
    assert all(len(one.blocks) == -(-one.prompt // BLOCK) for one in records)
