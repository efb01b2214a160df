"""Output and error files: lines as OpenAI has them, and what can be read back from them."""

import json
from pathlib import Path

import pytest

from shoal.batch.digests import Bits
from shoal.batch.lines import BadLine, Line
from shoal.batch.results import answered, done, refused

BATCH = "batch_0123abc"
LINE = Line(7, "r7", b"{}")


def test_an_answer_is_as_openai_has_it():
    body = b'{"id": "cmpl-1", "x": 1.50}'
    text = answered(BATCH, LINE, 200, "", body)
    assert json.loads(text) == {
        "id": "batch_req_0123abc_7",
        "custom_id": "r7",
        "response": {"status_code": 200, "request_id": "cmpl-1", "body": json.loads(body)},
        "error": None,
    }
    assert body in text


@pytest.mark.parametrize("body", [b'{\n "a": 1\n}\n', b"not json", b"", b'"\xff"', b"two\nlines"])
def test_whatever_comes_back_is_one_line_of_json(body: bytes):
    text = answered(BATCH, LINE, 200, "id", body)
    assert text.count(b"\n") == 1
    assert json.loads(text)["response"]["request_id"] == "id"


def test_a_failed_request_says_what_the_engine_said():
    body = b'{"error": {"message": "too long"}}'
    found = json.loads(answered(BATCH, LINE, 400, "", body))
    assert found["response"]["status_code"] == 400
    assert (found["error"]["message"], found["error"]["line"]) == ("too long", 7)


def test_a_bad_line_is_told_with_its_number_and_reason():
    found = json.loads(refused(BATCH, BadLine(3, "invalid_json", "It is not JSON.", None)))
    assert found["response"] is None
    assert found["error"] == {
        "code": "invalid_json",
        "message": "Line 3: It is not JSON.",
        "param": None,
        "line": 3,
    }


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


USED = b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}'
ONE, TWO, THREE = (answered(BATCH, Line(n, f"r{n}", b""), 200, "", USED) for n in (1, 2, 3))


def test_what_is_done_is_read_back(tmp_path: Path):
    numbers = Bits()
    path = write(tmp_path / "out", ONE, THREE)
    assert done(path, numbers) == (len(ONE + THREE), 2, 6, 10)
    assert [n for n in range(9) if n in numbers] == [1, 3]
    assert done(tmp_path / "none", numbers) == (0, 0, 0, 0)


@pytest.mark.parametrize("torn", [THREE[:-1], THREE[:20], b"\0" * 500, b"\0" * 10 + b"}\n", b"{}\n", ONE])
def test_a_torn_end_has_never_been(tmp_path: Path, torn: bytes):
    numbers = Bits()
    assert done(write(tmp_path / "out", ONE, TWO, torn), numbers)[:2] == (len(ONE + TWO), 2)
    assert numbers.count == 2


def test_a_line_is_done_once_whatever_file_it_is_in(tmp_path: Path):
    numbers = Bits()
    done(write(tmp_path / "out", ONE), numbers)
    assert done(write(tmp_path / "err", refused(BATCH, BadLine(1, "x", "y."))), numbers)[0] == 0
