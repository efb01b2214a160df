"""The table of `make bench-memory`, and what it says was shown."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.memory import report
from benchmarks.memory.run import Peaks, write_input


def peaks(owner: float) -> list[Peaks]:
    memory = {"client": 60.0, "owner": 100.0, "other node": 90.0, "gateway worker": 40.0}
    return [
        Peaks(10**8, 12_500, 20.0, memory),
        Peaks(10**9, 125_000, 200.0, memory | {"owner": owner}),
    ]


def test_more_memory_for_more_input_fails_and_names_the_process():
    assert report.verdict(peaks(110.0)) == (
        "with 10 times the input the owner has +10 MB, the others less: pass"
    )
    assert report.verdict(peaks(150.0)).endswith("the owner has +50 MB, the others less: FAIL")


def test_each_batch_has_a_row():
    text = report.markdown(peaks(110.0), "two cores")
    assert "| 0.10 GB | 12,500 | 20 | 60 | 100 | 90 | 40 |" in text
    assert "| 1.00 GB | 125,000 | 200 | 60 | 110 | 90 | 40 |" in text


def test_the_input_has_the_size_and_the_lines_that_were_asked_for(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    lines = write_input(path, 100_000, 1000)
    texts = path.read_text().splitlines()
    assert len(texts) == lines == 100
    assert {len(text) for text in texts} == {999}
    assert [json.loads(text)["custom_id"] for text in texts] == [f"r{n}" for n in range(100)]
