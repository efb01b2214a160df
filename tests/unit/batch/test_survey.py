"""The first look at an input: counts, ids that come again, and memory that does not grow with the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.batch.survey import StoppedError, survey


def test_every_occurrence_but_the_first_is_a_repetition(tmp_path: Path):
    path = tmp_path / "in"
    ids = ["a", "b", "a", "c", "b", "a"]
    path.write_text("".join(json.dumps({"custom_id": i}) + "\n" for i in ids) + "no json\n\n{}\n{}\n")
    found = survey(path, 1000)
    assert found.total == 9
    assert [n for n in range(20) if n in found.repeated] == [3, 5, 6]


def test_many_ids_go_through_files(tmp_path: Path):
    path = tmp_path / "in"
    lines = 400_000
    with path.open("w") as file:
        file.writelines(f'{{"custom_id":"r{n % (lines - 3)}"}}\n' for n in range(lines))
    found = survey(path, 1000)
    assert found.total == lines
    assert found.repeated.count == 3
    assert all(n in found.repeated for n in (lines, lines - 1, lines - 2))


def test_it_stops_when_it_is_told_to(tmp_path: Path):
    path = tmp_path / "in"
    path.write_text("{}\n" * 5000)
    with pytest.raises(StoppedError):
        survey(path, 100, lambda: True)


MEASURED = """
import resource, sys
from pathlib import Path
from shoal.batch.survey import survey
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = survey(Path(sys.argv[1]), 1 << 26)
print(found.total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    path = tmp_path / "in"
    filler = "x" * 8000
    with path.open("w") as file:  # 240 MB
        for n in range(30_000):
            file.write(f'{{"custom_id":"r{n}","body":{{"p":"{filler}"}}}}\n')
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    total, grown = map(int, done.stdout.split())
    assert total == 30_000
    assert grown < 16  # MB
