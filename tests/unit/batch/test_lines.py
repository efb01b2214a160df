"""Lines of a batch's input: what is a request, and what is told about the others."""

import io
import json
from typing import Any

import pytest

from shoal.batch.lines import BadLine, Line, json_error, numbered, parse

URL = "/v1/chat/completions"


def text(**changes: Any) -> bytes:
    fields = {"custom_id": "a", "method": "POST", "url": URL, "body": {"model": "m"}} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def test_a_request_keeps_its_body_byte_for_byte():
    body = b'{"model" : "m",  "x":[1.50, "\\u00e9"]}'
    line = parse(3, b'{"custom_id":"a","method":"POST","url":"%b","body":%b}' % (URL.encode(), body), URL)
    assert line == Line(3, "a", body)


@pytest.mark.parametrize(
    ("data", "code", "custom_id"),
    [
        (b"not json", "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b'{"custom_id": "a"', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b'{"custom_id": "\xff"}', "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (None, "line_too_long", None),
        (text(custom_id=...), "missing_custom_id", None),
        (text(custom_id=""), "missing_custom_id", None),
        (text(custom_id=7), "missing_custom_id", None),
        (text(custom_id="x" * 513), "invalid_custom_id", "x" * 512),
        (text(method="GET"), "invalid_method", "a"),
        (text(url="/v1/other"), "invalid_url", "a"),
        (text(url=...), "invalid_url", "a"),
        (text(url=["x" * 500]), "invalid_url", "a"),
        (text(body=...), "invalid_body", "a"),
        (text(body="x"), "invalid_body", "a"),
        (text(body={"stream": True}), "stream_not_possible", "a"),
        (text(body={"stream": 1}), "stream_not_possible", "a"),
    ],
)
def test_what_is_no_request_says_why(data: bytes | None, code: str, custom_id: str | None):
    line = parse(5, data, URL)
    assert isinstance(line, BadLine)
    assert (line.number, line.code, line.custom_id) == (5, code, custom_id)
    assert line.reason.endswith(".")
    assert len(line.reason) < 200


def test_a_stream_that_is_declined_is_no_mistake():
    assert isinstance(parse(1, text(body={"stream": False}), URL), Line)


def test_a_response_in_the_background_is_no_answer():
    url = "/v1/responses"
    line = parse(1, text(url=url, body={"input": "x", "background": True}), url)
    assert isinstance(line, BadLine)
    assert (line.code, line.param) == ("background_not_possible", "body.background")
    assert isinstance(parse(1, text(url=url, body={"input": "x", "background": False}), url), Line)
    assert isinstance(parse(1, text(body={"background": True}), URL), Line)  # no word of that API


def test_lines_are_numbered_as_an_editor_does_and_empty_ones_are_passed_over():
    file = io.BytesIO(b"a\n\n  \r\nbb\r\nccc")
    assert list(numbered(file, 10)) == [(1, b"a"), (4, b"bb"), (5, b"ccc")]


def test_of_a_line_that_is_too_long_nothing_is_kept():
    file = io.BytesIO(b"a\n" + b"x" * 1000 + b"\nb\n" + b"y" * 11)
    assert list(numbered(file, 10)) == [(1, b"a"), (2, None), (3, b"b"), (4, None)]
    assert list(numbered(io.BytesIO(b"x" * 10 + b"\nb"), 10)) == [(1, b"x" * 10), (2, b"b")]


def test_what_is_no_json_object_is_told():
    assert json_error(b"{}") is None
    assert json_error(b"a,b,c")
    assert json_error(None)
