import json

import pytest

from lib.chat import ChatError, deltas, error_message


def event(**body: object) -> str:
    return f"data: {json.dumps(body)}"


def piece(text: str | None) -> str:
    return event(choices=[{"delta": {"content": text}}])


def test_text_comes_out_of_a_stream_piece_by_piece() -> None:
    lines = [
        ": a comment",
        event(choices=[{"delta": {"role": "assistant", "content": ""}}]),
        "",
        piece("Par"),
        "",
        "event: something",
        piece("is: it"),
        event(choices=[], usage={"total_tokens": 3}),
        event(choices=[{"delta": {}, "finish_reason": "stop"}]),
        "data: [DONE]",
        piece("never read"),
    ]
    assert list(deltas(lines)) == ["Par", "is: it"]


def test_a_space_after_the_colon_is_optional() -> None:
    assert list(deltas([piece("a").replace("data: ", "data:"), "data:[DONE]"])) == ["a"]


def test_an_error_in_a_stream_is_told() -> None:
    stream = deltas([piece("Par"), event(error={"message": "engine lost"})])
    assert next(stream) == "Par"
    with pytest.raises(ChatError, match="engine lost"):
        next(stream)


def test_a_stream_without_its_end_is_not_an_answer() -> None:
    with pytest.raises(ChatError, match="broke off"):
        list(deltas([piece("Par")]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "nothing ready"}}', "nothing ready"),
        ("Bad Gateway\n", "Bad Gateway"),
        ('{"error": null}', '{"error": null}'),
        ("", "an empty answer"),
    ],
)
def test_error_bodies_of_any_kind_become_a_sentence(body: str, message: str) -> None:
    assert error_message(body) == message
