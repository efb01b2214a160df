import time
from pathlib import Path

import pytest

from shoal.engine.log_follow import MOST, last_lines, news, since
from shoal.engine.logs import rotate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "m-0.log"


def test_the_last_lines_come_first_then_what_is_written(log: Path):
    log.write_text("".join(f"line {n}\n" for n in range(50)) + "half")
    lines, cursor = last_lines(log, 3, whole=True)
    assert lines == ["line 47", "line 48", "line 49"]
    assert news(log, cursor) == ([], cursor)
    with log.open("a") as file:
        file.write(" and whole\n\x1b[32mgreen\x1b[0m\nnot yet")
    lines, cursor = news(log, cursor)
    assert lines == ["half and whole", "green"]
    assert last_lines(log, 1, whole=False)[0] == ["not yet"]


def test_nothing_is_lost_when_the_log_is_rotated_meanwhile(log: Path):
    log.write_text("one\ntwo\n")
    _, cursor = last_lines(log, 1, whole=True)
    with log.open("a") as file:
        file.write("three\n")
    assert rotate(log, 1, 3)
    with log.open("a") as file:
        file.write("4\n")
    assert news(log, cursor)[0] == ["three", "4"]


def test_a_log_that_is_not_there_has_no_lines(log: Path):
    assert last_lines(log, 5, whole=False) == ([], "0")
    assert news(log, "70") == ([], "0")


def test_a_line_longer_than_an_answer_comes_in_pieces(log: Path):
    log.write_bytes(b"x" * (MOST + 10) + b"\nend\n")
    first, cursor = news(log, "0")
    assert len(first[0]) == MOST
    assert news(log, cursor)[0] == ["x" * 10, "end"]


def test_a_long_log_is_read_from_its_end(log: Path):
    log.write_bytes(b"x" * 300_000 + b"\n" + b"last\n" * 10)
    lines, _ = last_lines(log, 2, whole=True)
    assert lines == ["last", "last"]


def test_lines_from_a_time_on():
    now = time.time()

    def stamp(ago: float, form: str) -> str:
        return time.strftime(form, time.localtime(now - ago))

    lines = [
        f"shoal: starting engine m-0 at {stamp(900, '%Y-%m-%d %H:%M:%S')} +0000: vllm serve",
        "bare text",
        f"(APIServer pid=1) INFO {stamp(300, '%m-%d %H:%M:%S')} [api_server.py:1] ready",
        "  and its second line",
        f"INFO {stamp(10, '%m-%d %H:%M:%S')} [x.py:2] later",
    ]
    assert since(lines, now - 600) == lines[2:]
    assert since(lines, now - 60) == lines[4:]
    assert since(lines, now + 60) == []
    next_month = stamp(-40 * 86400, "%m-%d %H:%M:%S")  # without a year: of the last one
    assert since([f"INFO {next_month} [x.py:1] old"], now - 60) == []
