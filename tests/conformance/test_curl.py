"""curl, as people type it."""

import json
import subprocess

import pytest


def curl(*arguments: str) -> tuple[int, dict[str, str], bytes]:
    """Run curl and return status, headers (lower case) and body."""
    command = ["curl", "-sS", "-i", "--noproxy", "*", "--max-time", "20", *arguments]
    out = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    head, _, body = out.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


BODY = json.dumps({"model": "sim-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})


def test_chat_names_the_engine_that_answered(node: str):
    status, headers, body = curl(
        f"{node}/v1/chat/completions", "-H", "content-type: application/json", "-d", BODY
    )
    assert status == 200
    assert headers["x-shoal-engine"].endswith("/sim-model-0")
    assert json.loads(body)["choices"][0]["message"]["content"]


def test_stream_ends_with_done(node: str):
    streamed = BODY[:-1] + ', "stream": true}'
    _, headers, body = curl(
        "-N", f"{node}/v1/chat/completions", "-H", "content-type: application/json", "-d", streamed
    )
    assert headers["content-type"].startswith("text/event-stream")
    assert body.rstrip().endswith(b"data: [DONE]")


def test_a_body_sent_after_100_continue(node: str):
    status, _, _ = curl(
        f"{node}/v1/chat/completions",
        "-H",
        "content-type: application/json",
        "-H",
        "Expect: 100-continue",
        "-d",
        BODY,
    )
    assert status == 200


def test_a_chunked_body(node: str):
    status, _, _ = curl(
        f"{node}/v1/chat/completions",
        "-H", "content-type: application/json", "-H", "Transfer-Encoding: chunked", "-d", BODY,
    )  # fmt: skip
    assert status == 200


def test_head_and_health(node: str):
    assert curl(f"{node}/health")[0] == 200
    status, _, body = curl("-I", f"{node}/v1/models")
    assert (status, body) == (200, b"")


def test_http_1_0(node: str):
    status, _, body = curl(
        "-0", f"{node}/v1/chat/completions", "-H", "content-type: application/json", "-d", BODY
    )
    assert status == 200
    assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["/v1/chat/completions", "-d", "{not json"], 400),
        (["/v1/chat/completions", "-d", "[]"], 400),
        (["/no/such/path"], 404),
        (["/v1/load_lora_adapter", "-d", "{}"], 404),
        (["/sleep", "-X", "POST"], 404),
        (["/v1/chat/completions", "-d", '{"model": "unknown"}'], 404),
        (["/shoal/v1/nothing"], 404),
    ],
)
def test_errors_are_openai_style_json(node: str, arguments: list[str], status: int):
    got, headers, body = curl(node + arguments[0], "-H", "content-type: application/json", *arguments[1:])
    assert got == status, body
    assert headers["content-type"].startswith("application/json")
    error = json.loads(body)["error"]
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_tokenize_and_the_other_inference_endpoints_pass_through(node: str):
    status, _, body = curl(
        f"{node}/tokenize",
        "-H",
        "content-type: application/json",
        "-d",
        '{"model": "sim-model", "prompt": "one two"}',
    )
    assert status == 200
    assert json.loads(body)["count"] > 0


def test_status_and_metrics(node: str):
    assert json.loads(curl(f"{node}/shoal/v1/status")[2])["members"]
    assert b"shoal_gateway_requests_total" in curl(f"{node}/metrics")[2]
