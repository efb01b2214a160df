from __future__ import annotations

from typing import Any

import pytest

from shoal.sim import text
from shoal.sim.errors import ApiError
from shoal.sim.openai import Service, TextRequest, parse_chat, parse_completion

SERVICE = Service(("tiny", "alias"), 256)
HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chat(headers: dict[bytes, bytes] | None = None, service: Service = SERVICE, **body: Any) -> TextRequest:
    return parse_chat({"messages": HELLO} | body, headers or {}, service)


def completion(**body: Any) -> TextRequest:
    return parse_completion({"prompt": "hello"} | body, {}, SERVICE)


def refusal(call: Any, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(**body)
    return caught.value


def test_a_chat_fills_the_context_by_default() -> None:
    request = chat()
    assert text.decode(request.prompts[0]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert request.samplings[0].max_tokens == 256 - len(request.prompts[0])
    assert (request.role, request.n, request.stream, request.logprobs) == ("assistant", 1, False, None)


def test_a_completion_has_16_tokens_by_default() -> None:
    assert completion().samplings[0].max_tokens == 16
    assert completion(max_tokens=None).samplings[0].max_tokens == 16


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).samplings[0].max_tokens == 7


def test_prompts_come_in_all_of_openais_forms() -> None:
    ids = text.encode("hello")
    assert completion(prompt="hello").prompts == [ids]
    assert completion(prompt=["hello", "hello"]).prompts == [ids, ids]
    assert completion(prompt=[5, 6]).prompts == [[5, 6]]
    assert completion(prompt=[[5], [6, 7]]).prompts == [[5], [6, 7]]


def test_ids_come_from_the_header_the_body_or_chance() -> None:
    assert chat({b"x-request-id": b"mine"}, request_id="other").id == "chatcmpl-mine"
    assert completion(request_id="other").id == "cmpl-other"
    assert completion().id != completion().id


def test_priority_comes_from_the_header_before_the_body() -> None:
    assert chat({b"x-vllm-priority": b"-3"}, priority=5).priority == -3
    assert chat({b"x-vllm-priority": b"high"}, priority=5).priority == 5


def test_unknown_fields_are_ignored() -> None:
    assert chat(foo=1, vllm_xargs={"a": 1}, user="u").n == 1


def test_a_continued_message_keeps_its_role_and_text() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Sure"}]
    request = chat(messages=turns, continue_final_message=True, add_generation_prompt=False, echo=True)
    assert text.decode(request.prompts[0]).endswith("assistant\nSure")
    assert (request.role, request.echo_text) == ("assistant", ["Sure"])
    assert chat(add_generation_prompt=False).role == "user"


def test_usage_is_streamed_as_asked_for() -> None:
    request = chat(stream=True, stream_options={"continuous_usage_stats": True})
    assert (request.include_usage, request.continuous_usage) == (False, False)
    request = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert (request.include_usage, request.continuous_usage) == (True, True)


def test_only_the_prompt_is_echoed_when_no_token_is_asked_for() -> None:
    request = completion(echo=True, max_tokens=0)
    assert (request.echo_only, request.echo_text, request.samplings[0].max_tokens) == (True, ["hello"], 1)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "nope"}, 404, "The model `nope` does not exist. Valid aliases: tiny, alias."),
        ({"messages": []}, 400, "Cannot apply chat template to an empty conversation"),
        ({"max_tokens": -1}, 400, "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)"),
        ({"max_tokens": 0}, 400, "max_tokens must be at least 1, got 0."),
        ({"max_tokens": 1000}, 400, "max_tokens=1000 cannot be greater than max_model_len=256."),
        (
            {"max_completion_tokens": 999},
            400,
            "max_completion_tokens=999 cannot be greater than max_model_len=256.",
        ),
        (
            {"stream_options": {"include_usage": True}},
            400,
            "Stream options can only be defined when `stream=True`.",
        ),
        ({"top_logprobs": 2}, 400, "when using `top_logprobs`, `logprobs` must be set to true."),
        (
            {"logprobs": True, "top_logprobs": 21},
            400,
            "Requested sample logprobs of 21, which is greater than",
        ),
        ({"logprobs": True, "top_logprobs": -2}, 400, "`top_logprobs` must be a positive value or -1."),
        ({"tools": []}, 400, "`tools` must not be an empty array."),
        ({"tools": [TOOL]}, 400, '"auto" tool choice requires --enable-auto-tool-choice'),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            400,
            'tool_choice="required" requires --tool-call-parser',
        ),
        ({"tool_choice": "auto"}, 400, "When using `tool_choice`, `tools` must be set."),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            400,
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        ),
        ({"continue_final_message": True}, 400, "are not compatible"),
        (
            {"messages": [{"role": "user", "content": "word " * 400}]},
            400,
            "contains at least 257 input tokens",
        ),
    ],
)
def test_wrong_chats_are_refused_in_vllms_words(body: dict[str, Any], status: int, words: str) -> None:
    error = refusal(chat, **body)
    assert words in error.message
    assert error.status == status


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": ""}, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        ({"prompt": None}, "Either prompt or prompt_embeds must be provided and non-empty."),
        ({"prompt": []}, "You must pass at least one prompt"),
        ({"prompt": ["a", ""]}, "The decoder prompt cannot be empty"),
        ({"prompt": 5}, "Input should be a valid string"),
        ({"prompt": [1, "a"]}, "Input should be a valid list"),
        ({"prompt": [text.VOCABULARY]}, "is out of vocabulary"),
        ({"prompt": [-1]}, "greater than or equal to 0"),
        ({"prompt": ["a"] * 1025}, "exceeds the maximum allowed count of 1024"),
        ({"suffix": "x"}, "suffix is only supported for models with FIM completion rendering"),
        ({"prompt": [5] * 256}, "max_tokens must be at least 1, got 0."),
        ({"prompt": [5] * 300}, "contains 300 input tokens"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0."),
    ],
)
def test_wrong_completions_are_refused_in_vllms_words(body: dict[str, Any], words: str) -> None:
    error = refusal(completion, **body)
    assert words in error.message
    assert error.status == 400


def test_tools_are_taken_when_the_engine_was_told_so() -> None:
    request = chat(service=Service(("tiny",), 256, auto_tools=True), tools=[TOOL])
    assert '"name":"f"' in text.decode(request.prompts[0])
    assert chat(tools=[TOOL], tool_choice="none").n == 1
