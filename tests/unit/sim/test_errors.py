from __future__ import annotations

import json

from shoal.sim.errors import ApiError, InvalidFieldError, bad_parameter, prompt_too_long, unknown_model


def said(error: ApiError) -> dict[str, object]:
    return dict(json.loads(error.body())["error"])


def test_errors_have_the_shape_and_the_type_usual_for_their_status() -> None:
    assert said(ApiError("no", 400)) == {
        "message": "no",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }
    assert said(ApiError("no", 500))["type"] == "InternalServerError"
    assert said(ApiError("no", 503))["type"] == "Service Unavailable"
    assert said(ApiError("no", 429))["type"] == "Too Many Requests"
    assert said(ApiError("no", 599))["type"] == "UnknownError"


def test_the_words_are_vllms() -> None:
    # Compared with vLLM 0.32.
    assert said(unknown_model("nope", ("tiny", "tiny-alias"))) == {
        "message": "The model `nope` does not exist. Valid aliases: tiny, tiny-alias.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    assert said(bad_parameter("top_p must be in (0, 1], got 3.0.", "top_p", 3.0))["message"] == (
        "top_p must be in (0, 1], got 3.0. (parameter=top_p, value=3.0)"
    )
    assert said(prompt_too_long(257, 256, at_least=True))["message"] == (
        "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        "(parameter=input_tokens, value=257)"
    )
    text = "Input should be a valid integer, unable to parse string as an integer"
    assert said(InvalidFieldError("int_parsing", "max_tokens", text, "x")) == {
        "message": "1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens', 'msg': "
        "'Input should be a valid integer, unable to parse string as an integer', 'input': 'x'}",
        "type": "Bad Request",
        "param": "body.max_tokens",
        "code": 400,
    }


def test_what_was_sent_is_not_sent_back_at_length() -> None:
    for value in ("x" * 10_000, ["x" * 10_000], {"a": "x" * 10_000}, 10**4000):
        assert len(InvalidFieldError("t", "f", "wrong", value).body()) < 500
