from __future__ import annotations

import pytest

from shoal.sim import chat
from shoal.sim.errors import ApiError

HELLO = [{"role": "user", "content": "hi"}]


def test_a_conversation_becomes_a_prompt_that_asks_for_an_answer() -> None:
    assert chat.render([{"role": "system", "content": "be kind"}, *HELLO]) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.render(HELLO, add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"


def test_a_continued_message_stays_open_to_the_last_character() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Sure, "}]
    prompt = chat.render(turns, add_generation_prompt=False, continue_final_message=True)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nSure, "
    assert prompt == chat.render(HELLO) + "Sure, "


def test_parts_are_joined_and_other_media_leave_a_mark_of_their_own() -> None:
    assert chat.content_text([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "") == "a\nb"
    images = [{"type": "image_url", "image_url": {"url": f"http://host/{name}"}} for name in "aab"]
    marks = [chat.content_text([image], "") for image in images]
    assert marks[0] == marks[1] != marks[2]
    assert chat.content_text(None, "") == ""


def test_tools_and_tool_calls_are_part_of_the_prompt() -> None:
    prompt = chat.render(
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], tools=[{"name": "f"}]
    )
    assert '{"name":"f"}' in prompt
    assert '{"id":"1"}' in prompt


@pytest.mark.parametrize(
    ("messages", "hint"),
    [
        ("x", "valid list"),
        (["x"], "valid dictionary"),
        ([{"content": "x"}], "body.messages.0.role"),
        ([{"role": 5}], "body.messages.0.role"),
        ([{"role": "user", "content": 5}], "body.messages.0.content"),
        ([{"role": "user", "content": [5]}], "body.messages.0.content.0"),
    ],
)
def test_malformed_messages_are_refused(messages: object, hint: str) -> None:
    with pytest.raises(ApiError, match=hint):
        chat.check_messages(messages)


def test_no_message_or_two_endings_are_refused() -> None:
    with pytest.raises(ApiError, match="empty conversation"):
        chat.render([])
    with pytest.raises(ApiError, match="not compatible"):
        chat.render(HELLO, continue_final_message=True)
