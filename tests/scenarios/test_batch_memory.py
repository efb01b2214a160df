"""A batch's memory does not grow with its input: what `make bench-memory` measures, in small."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.memory import report
from benchmarks.memory.run import MEGABYTE, measure

_LINE = 100_000  # bytes: what takes the time are to be bytes, and not requests
_SMALL, _LARGE = 25, 250  # MB
# Buffers of a node that is given 25 MB have not all been as large as they get; nobody keeps what more there comes.
_BUFFERS = 100.0


@pytest.mark.rare
@pytest.mark.timeout(400)
def test_a_file_is_in_the_memory_of_no_process_that_has_to_do_with_it(tmp_path: Path):
    sizes = [_SMALL * MEGABYTE, _LARGE * MEGABYTE]
    peaks = asyncio.run(measure(tmp_path, sizes, _LINE, print, in_flight=50))
    assert [found.lines for found in peaks] == [250, 2500]
    assert max(report.growth(peaks).values()) < _BUFFERS < _LARGE - _SMALL, peaks
