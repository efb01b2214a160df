"""Answers a worker gives itself."""

from __future__ import annotations

import json

import pytest

from shoal.gateway.responses import Answer, error


def test_an_error_has_the_form_openai_clients_know():
    answer = error(404, "no such model", code="model_not_found", param="model", headers=(b"x: y",))
    head, _, body = answer.render(date=b"today", close=True).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 404 Not Found",
        b"date: today",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"x: y",
        b"connection: close",
    ]
    assert json.loads(body) == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (500, "server_error"), (503, "server_error")]
)
def test_the_type_says_whose_fault_it_is(status, kind):
    assert json.loads(error(status, "x").body)["error"]["type"] == kind


@pytest.mark.parametrize("status", [200, 400, 404, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505])
def test_every_status_in_use_has_a_reason_phrase(status):
    line = Answer(status, b"").render(date=b"", close=False).split(b"\r\n")[0]
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert len(line) > len(b"HTTP/1.1 200 ")


def test_head_gets_the_length_without_the_body():
    assert (
        Answer(200, b"hello")
        .render(date=b"d", close=False, head_only=True)
        .endswith(b"content-length: 5\r\n\r\n")
    )
