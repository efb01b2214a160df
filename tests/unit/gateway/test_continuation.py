import json
from typing import Any

import pytest

from shoal.gateway.continuation import (
    CHAT,
    COMPLETIONS,
    Asked,
    CannotResumeError,
    continuation,
    exhausted,
    refuse,
    safe_point,
)
from shoal.gateway.transcript import Transcript

CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}


def asked(path: bytes = CHAT, **fields: Any) -> Asked:
    body = CHAT_BODY if path == CHAT else {"model": "m", "prompt": "q", "stream": True}
    return Asked.read(path, json.dumps(body | fields).encode())


def said(*pieces: tuple[list[int], str], prompt: list[int] | None = None) -> Transcript:
    transcript = Transcript(limit=1 << 20)
    first: dict[str, Any] = {"id": "i", "created": 1, "model": "m", "prompt_token_ids": prompt or [7, 8]}
    first["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
    events = [first]
    for ids, text in pieces:
        events.append({"id": "i", "choices": [{"index": 0, "delta": {"content": text}, "token_ids": ids}]})
    transcript.keep(b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events))
    transcript.read()
    return transcript


def plan(asked: Asked, said: Transcript, **more: Any) -> dict[str, Any]:
    made = continuation(asked, said, **{"exact": True, "token_ids": True, "max_model_len": 100, **more})
    return json.loads(made.body) | {"target": made.target, "repeats": made.repeats}


def test_prompt_and_answer_go_on_as_token_ids():
    body = plan(
        asked(max_tokens=10, min_tokens=4, temperature=0.5, seed=3, tools=None, user="u"),
        said(([1], "a"), ([2, 3], "b")),
    )
    assert body["target"] == COMPLETIONS
    assert body["prompt"] == [7, 8, 1, 2, 3]
    assert (body["max_tokens"], body["min_tokens"], body["temperature"], body["seed"]) == (7, 1, 0.5, 3)
    assert (body["stream"], body["return_token_ids"], body["user"]) == (True, True, "u")
    assert "messages" not in body


def test_ids_that_have_no_whole_character_yet_are_generated_anew():
    assert safe_point(asked(), said(([1], "a"), ([2], ""), ([3], ""))) == (1, 1)
    assert plan(asked(max_tokens=9), said(([1], "a"), ([2], "")))["prompt"] == [7, 8, 1]


def test_where_nothing_limits_the_answer_the_context_does():
    assert plan(asked(), said(([1], "a")))["max_tokens"] == 97
    assert plan(asked(), said(([1], "a")), max_model_len=None)["target"] == CHAT  # not known: by text


def test_completions_have_sixteen_tokens_unless_they_say_otherwise():
    assert plan(asked(COMPLETIONS), said(([1], "a")))["max_tokens"] == 15
    assert plan(asked(COMPLETIONS, max_tokens=None), said(([1], "a")))["max_tokens"] == 15


def test_held_back_text_is_generated_again_and_what_was_sent_left_out():
    # "ENDING" of six characters: five are held back, so the text is that of five characters before the ids.
    transcript = said(([1], ""), ([2], ""), ([3], "ab"), ([4], "cd"), ([5], "e"))
    body = plan(asked(stop="ENDING", max_tokens=20), transcript)
    assert body["prompt"] == [7, 8]
    assert body["repeats"] == "abcde"
    long = said(*[([i], "abc") for i in range(1, 9)])
    body = plan(asked(stop=["ENDING"], max_tokens=20), long)
    assert body["prompt"] == [7, 8, 1, 2, 3, 4, 5, 6]
    assert body["repeats"] == "c"  # of 24 characters, six tokens of three and the five held back are 23


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 3}, "several choices"),
        ({"logprobs": True}, "logprobs"),
        ({"structured_outputs": {"regex": "x"}}, "guided decoding"),
        ({"response_format": {"type": "json_schema"}}, "guided decoding"),
        ({"tool_choice": "required"}, "calls a tool"),
        ({"use_beam_search": True}, "beam search"),
        ({"echo": True}, "repeats its prompt"),
    ],
)
def test_what_cannot_go_on_says_why(fields: dict[str, Any], why: str):
    with pytest.raises(CannotResumeError, match=why):
        refuse(asked(**fields), said(([1], "a")))


@pytest.mark.parametrize(
    "fields",
    [{"n": 1, "logprobs": False, "response_format": {"type": "text"}, "tool_choice": "none"}, {"stop": []}],
)
def test_harmless_values_of_such_fields_are_no_reason(fields: dict[str, Any]):
    refuse(asked(**fields), said(([1], "a")))


def test_reasoning_and_tool_calls_under_way_cannot_go_on():
    for delta, why in (({"reasoning": "hm"}, "reasoning"), ({"tool_calls": [{"index": 0}]}, "calls a tool")):
        transcript = said()
        transcript.keep(
            b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
        )
        transcript.read()
        with pytest.raises(CannotResumeError, match=why):
            refuse(asked(), transcript)


def test_by_text_tokens_of_a_character_that_is_not_whole_yet_are_generated_anew():
    tools = [{"type": "function", "function": {"name": "f"}}]
    for pieces in ([([1], "a"), ([2], ""), ([3], "")], [([1], "a")]):
        made = continuation(
            asked(tools=tools, max_tokens=10, min_tokens=4),
            said(*pieces),
            exact=True,
            token_ids=True,
            max_model_len=100,
        )
        body = json.loads(made.body)
        assert (made.tokens, body["max_tokens"], body["min_tokens"]) == (1, 9, 3)


def test_tools_and_pictures_go_on_by_text():
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = plan(asked(tools=tools, max_tokens=10), said(([1], "a"), ([2], "b")))
    assert body["target"] == CHAT
    assert body["messages"] == [*CHAT_BODY["messages"], {"role": "assistant", "content": "ab"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["tools"], body["max_tokens"]) == (tools, 8)
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]
    assert plan(asked(messages=picture), said(([1], "a")))["target"] == CHAT
    assert plan(asked(tools=tools, tool_choice="none"), said(([1], "a")))["target"] == COMPLETIONS


def test_a_message_the_client_had_begun_is_continued():
    begun = [*CHAT_BODY["messages"], {"role": "assistant", "content": "Once"}]
    body = plan(
        asked(messages=begun, continue_final_message=True, add_generation_prompt=False),
        said(([1], " upon")),
        token_ids=False,
    )
    assert body["messages"][-1] == {"role": "assistant", "content": "Once upon"}


def test_a_completion_goes_on_behind_its_text():
    assert plan(asked(COMPLETIONS), said(([1], "a")), exact=False)["prompt"] == "qa"
    assert plan(asked(COMPLETIONS, prompt=["q"]), said(([1], "a")), exact=False)["prompt"] == "qa"
    with pytest.raises(CannotResumeError, match="token ids"):
        plan(asked(COMPLETIONS, prompt=[5, 6]), said(([1], "a")), exact=False)


def test_an_answer_with_all_its_tokens_has_nothing_left():
    assert exhausted(asked(max_tokens=2), said(([1], "a"), ([2], "b")), 100)
    assert not exhausted(asked(max_tokens=3), said(([1], "a"), ([2], "b")), 100)
    assert exhausted(asked(), said(([1], "a"), ([2], "b")), 4)
    assert not exhausted(asked(max_tokens=2), said(([1], "a"), ([2], "")), 100)  # half a character


def test_a_stream_beyond_the_buffer_is_forgotten():
    transcript = Transcript(limit=2000)
    event = (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 50}}]}).encode() + b"\n\n"
    )
    for _ in range(1000):
        transcript.keep(event)
    with pytest.raises(CannotResumeError, match="resume_buffer"):
        refuse(asked(), transcript)
    assert transcript.text == ""
