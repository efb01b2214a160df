"""A good answer is taken apart in every way that a gateway could get it wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from benchmarks.chaos.questions import CHAT, COMPLETIONS, Answer, Question
from benchmarks.chaos.verify import GOOD, Outcome, judge

ANSWER = Answer("fish 🐟 swim", "stop", 9, 4)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
PIECES = ["fish", " 🐟", "", " swim"]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CHAT_QUESTION = Question(CHAT, STREAM, ANSWER)
Json = dict[str, Any]
Events = list[Json | str]


def chunk(choice: Json | None, **more: Any) -> Json:
    choices = [] if choice is None else [{"index": 0, "finish_reason": None} | choice]
    return {"id": "a", "object": "o", "created": 1, "model": "m", "choices": choices} | more


def chat() -> Events:
    return [
        chunk({"delta": {"role": "assistant", "content": ""}}),
        *(chunk({"delta": {"content": piece}}) for piece in PIECES[:-1]),
        chunk({"delta": {"content": PIECES[-1]}, "finish_reason": "stop"}),
        chunk(None, usage=USAGE),
        "[DONE]",
    ]


def body(events: Events) -> bytes:
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return b"".join(b"data: " + line.encode() + b"\n\n" for line in lines)


def outcome(events: Events, cut: str = "") -> Outcome:
    return judge(CHAT_QUESTION, 200, body(events), cut).outcome


def test_the_undisturbed_answer_is_good() -> None:
    assert judge(CHAT_QUESTION, 200, body(chat())) == GOOD
    assert judge(CHAT_QUESTION, 200, b": resumed by another engine\n\n" + body(chat())) == GOOD


def test_a_completion_is_good_too() -> None:
    events: Events = [chunk({"text": piece}) for piece in PIECES]
    events[-1]["choices"][0]["finish_reason"] = "stop"  # type: ignore[index]
    assert judge(Question(COMPLETIONS, {"stream": True}, ANSWER), 200, body([*events, "[DONE]"])) == GOOD


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda e: e.insert(2, e[1]), id="text twice"),
        pytest.param(lambda e: e.pop(2), id="text missing"),
        pytest.param(lambda e: e.insert(0, e[0]), id="role twice"),
        pytest.param(lambda e: e.pop(0), id="no role"),
        pytest.param(lambda e: e.insert(3, e.pop(0)), id="role after text"),
        pytest.param(lambda e: e.append("[DONE]"), id="done twice"),
        pytest.param(lambda e: e.append(e[1]), id="an event after done"),
        pytest.param(lambda e: e[2].update(id="b"), id="another id"),
        pytest.param(lambda e: e[2].update(created=2), id="another time"),
        pytest.param(lambda e: e[2].update(model="n"), id="another model"),
        pytest.param(lambda e: e.pop(-2), id="no usage"),
        pytest.param(lambda e: e.insert(5, e[5]), id="usage twice"),
        pytest.param(lambda e: e[5].update(usage=USAGE | {"prompt_tokens": 11}), id="prompt counted twice"),
        pytest.param(
            lambda e: e[5].update(usage=USAGE | {"completion_tokens": 2}), id="usage of the rest alone"
        ),
        pytest.param(lambda e: e[4]["choices"][0].update(finish_reason="length"), id="another finish_reason"),
        pytest.param(lambda e: e[4]["choices"][0].update(finish_reason=None), id="no finish_reason"),
        pytest.param(lambda e: e[2]["choices"][0].update(token_ids=[1]), id="token ids nobody asked for"),
        pytest.param(lambda e: e[2]["choices"][0]["delta"].update(content=" \ufffd"), id="a split character"),
        pytest.param(lambda e: e.insert(1, "{"), id="half an event"),
        pytest.param(lambda e: e.insert(1, "{}"), id="an empty event"),
    ],
)
def test_every_deviation_is_wrong(damage: Callable[[Events], object]) -> None:
    events = chat()
    damage(events)
    assert outcome(events) is Outcome.WRONG


def test_what_a_router_may_rewrite_is_wrong_only_when_strict() -> None:
    events = chat()
    events[2]["id"] = "b"  # type: ignore[index]
    del events[5]
    assert judge(CHAT_QUESTION, 200, body(events), strict=False) == GOOD
    del events[2]
    assert judge(CHAT_QUESTION, 200, body(events), strict=False).outcome is Outcome.WRONG


def test_a_stream_that_ends_early_is_broken_however_it_ends() -> None:
    events = chat()
    assert outcome(events[:-1]) is Outcome.BROKEN
    assert outcome(events[:3], "connection lost") is Outcome.BROKEN
    assert outcome([], "connection lost") is Outcome.BROKEN
    error: Json = {"error": {"message": "the engine died"}}
    verdict = judge(CHAT_QUESTION, 200, body([*events[:3], error, "[DONE]"]))
    assert verdict.outcome is Outcome.BROKEN
    assert "the engine died" in verdict.reason


def test_a_stream_that_was_wrong_before_it_broke_is_wrong() -> None:
    events = chat()[:3]
    assert outcome([*events, events[-1]], "connection lost") is Outcome.WRONG


def test_an_error_before_the_first_byte_is_a_failure() -> None:
    assert judge(CHAT_QUESTION, None, b"", "cannot connect").outcome is Outcome.FAILED
    assert judge(CHAT_QUESTION, 503, b"busy").outcome is Outcome.FAILED


def test_a_whole_answer_is_judged_by_text_reason_and_usage() -> None:
    question = Question(CHAT, {"stream": False}, ANSWER)
    right: Json = {
        "choices": [{"message": {"content": ANSWER.text}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    assert judge(question, 200, json.dumps(right).encode()) == GOOD
    wrong = right | {"usage": USAGE | {"completion_tokens": 5}}
    assert judge(question, 200, json.dumps(wrong).encode()).outcome is Outcome.WRONG
    assert judge(question, 200, b'{"choi', "connection lost").outcome is Outcome.BROKEN
    assert judge(question, 200, b"", "connection lost").outcome is Outcome.FAILED
