"""The shapes are compared with vLLM's in test_server.py, the client library is tried in test_generate.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.sim import text
from shoal.sim.anthropic import MessagesRenderer, as_chat, error_body, parse_messages
from shoal.sim.detokenizer import Detokenizer
from shoal.sim.errors import InvalidFieldError, unknown_model
from shoal.sim.generation import Generation, Outbox, Sampling
from shoal.sim.openai import Service
from shoal.sim.scheduler import Request

BODY = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
SERVICE = Service(("m",), 256)


def generation(prompt: list[int], cached: int = 0) -> Generation:
    request = Request("r", prompt, len(prompt), 100, cached=cached)
    return Generation(request, Sampling(5), Outbox(), True, 0, text.Continuation(prompt), Detokenizer(prompt))


def test_a_message_is_a_chat_in_other_clothes() -> None:
    chat = as_chat(BODY | {"system": [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]})
    assert chat["messages"] == [{"role": "system", "content": "bekind"}, {"role": "user", "content": "hi"}]
    streamed = as_chat(BODY | {"stream": True, "stop_sequences": ["x"], "temperature": 0.5})
    assert (streamed["stop"], streamed["temperature"], streamed["stream"]) == (["x"], 0.5, True)
    request = parse_messages(BODY, {}, SERVICE)
    assert text.decode(request.prompts[0]).startswith("<|im_start|>user\nhi")
    assert request.samplings[0].max_tokens == 5


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ...}, "body.model"),
        ({"max_tokens": ...}, "body.max_tokens"),
        ({"messages": ...}, "body.messages"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"messages": "x"}, "body.messages"),
        ({"system": 5}, "body.system"),
    ],
)
def test_what_is_missing_or_wrong_is_named(change: dict[str, Any], param: str) -> None:
    body = {key: value for key, value in (BODY | change).items() if value is not ...}
    with pytest.raises(InvalidFieldError) as caught:
        as_chat(body)
    assert caught.value.param == param


def test_errors_are_anthropics_except_for_malformed_bodies() -> None:
    assert json.loads(error_body(unknown_model("x", ("m",))))["type"] == "error"
    assert "error" in json.loads(error_body(InvalidFieldError("missing", "model", "Field required", {})))


def test_cached_tokens_are_told_apart_when_asked_for() -> None:
    renderer = MessagesRenderer(parse_messages(BODY, {}, SERVICE), "m", cached_tokens=True)
    one = generation([5] * 30, cached=16)
    one.request.tokens += [6, 7]
    one.finish_reason = "stop"
    one.stop_reason = "END"
    message = json.loads(renderer.full([one]))
    assert message["usage"] == {
        "input_tokens": 14,
        "output_tokens": 2,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 16,
    }
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_an_empty_answer_opens_no_block() -> None:
    renderer = MessagesRenderer(parse_messages(BODY, {}, SERVICE), "m")
    one = generation([5])
    one.finish_reason = "stop"
    assert renderer.delta(one, [text.EOS], "", 1) == b""
    ending = renderer.end([one])
    assert b"content_block" not in ending
    assert b'"stop_reason":"end_turn"' in ending


def test_a_failed_stream_ends_with_an_error_event() -> None:
    assert MessagesRenderer(parse_messages(BODY, {}, SERVICE), "m").error("it broke") == (
        b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"it broke"}}\n\n'
    )
