from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from shoal.engine import logs
from support.wait import wait_until

WRITER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(4000):
    os.write(log, b"line %08d %s\\n" % (number, b"x" * 100))
    time.sleep(0.0001)
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_small_log_is_not_rotated(tmp_path: Path) -> None:
    log = write(tmp_path / "a.log", "x" * 100)
    assert not logs.rotate(log, 100, 3)
    assert not logs.rotate(tmp_path / "missing.log", 100, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.log"]


def test_rotation_keeps_as_many_files_as_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for number in range(5):
        log.write_text(f"{number}" * 101)
        assert logs.rotate(log, 100, 3)
    assert log.read_text() == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_text()[0] == "4"
    assert (tmp_path / "a.log.2").read_text()[0] == "3"


def test_rotation_of_a_single_file_only_cuts(tmp_path: Path) -> None:
    log = write(tmp_path / "a.log", "x" * 101)
    assert logs.rotate(log, 100, 1)
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("a.log", 0)]


def test_a_copy_that_cannot_be_written_does_not_keep_the_log_growing(tmp_path: Path) -> None:
    log = write(tmp_path / "a.log", "x" * 101)
    full = tmp_path / "a.log.1"
    full.symlink_to("/dev/full")
    assert logs.rotate(log, 100, 3)
    assert log.stat().st_size == 0


def test_rotation_under_a_writer_loses_at_most_one_stretch_each_time(tmp_path: Path) -> None:
    log = write(tmp_path / "a.log", "")
    rotations = 0
    with subprocess.Popen([sys.executable, "-S", "-c", WRITER, str(log)]) as writer:
        while writer.poll() is None:
            wait_until(lambda: log.stat().st_size > 30_000 or writer.poll() is not None, every=0.001)
            rotations += logs.rotate(log, 30_000, 100)
    kept = [tmp_path / f"a.log.{n}" for n in range(rotations, 0, -1)]
    lines = "".join(p.read_text() for p in [*kept, log]).splitlines()
    assert rotations > 5
    assert all(re.fullmatch(r"line \d{8} x{100}", line) for line in lines)
    numbers = [int(line.split()[1]) for line in lines]
    gaps = [b - a - 1 for a, b in pairwise(numbers) if b != a + 1]
    assert all(gap > 0 for gap in gaps)  # nothing twice, nothing out of order
    assert len(gaps) <= rotations
    assert numbers[-1] == 3999


def test_a_log_is_opened_for_appending_by_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    for _ in range(2):
        descriptor = logs.open_log(path)
        logs.write_start(descriptor, "m-0", ["python", "serve", "--api-key", "hunter2"])
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    assert text.count(logs.START) == 2
    assert "hunter2" not in text


def test_tail_returns_the_last_lines_without_colours(tmp_path: Path) -> None:
    log = write(tmp_path / "a.log", "one\n\x1b[32mtwo\x1b[0m\n 50%|##\r100%|####\nthree\n")
    assert logs.tail(log, 2) == ["100%|####", "three"]
    assert logs.tail(log, 100) == ["one", "two", " 50%|##", "100%|####", "three"]
    assert logs.tail(log, 0) == []
    assert logs.tail(tmp_path / "missing.log") == []


def test_only_the_end_of_a_long_log_is_read_and_from_the_beginning_of_a_line(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n" + b"\xff" * 50 + b"\nlast \xe2\x82\xac\n")
    assert logs.read_end(log, 20) == "last €\n"
    assert logs.read_end(log, 1000).startswith("first\n")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("a\n", "a\n"),
        (f"a\n{logs.START} m at 1\nb", " m at 1\nb"),
        (f"{logs.START}x{logs.START}y", "y"),
        ("", ""),
    ],
)
def test_the_last_start_is_told_from_those_before(text: str, last: str) -> None:
    assert logs.last_start(text) == last


def test_a_remark_is_appended_and_a_disk_that_refuses_is_no_matter(tmp_path: Path) -> None:
    logs.note(tmp_path / "a.log", "something happened")
    assert (tmp_path / "a.log").read_text() == "shoal: something happened\n"
    logs.note(Path("/dev/full"), "something happened")
