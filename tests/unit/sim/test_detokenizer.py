from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.sim import text
from shoal.sim.detokenizer import DecodeStream, Detokenizer


def streamed(detokenizer: Detokenizer, tokens: list[int]) -> tuple[list[str], str | None]:
    pieces: list[str] = []
    for number, token in enumerate(tokens, 1):
        stop = detokenizer.push(token)
        pieces.append(detokenizer.take(finished=stop is not None or number == len(tokens)))
        if stop is not None:
            return pieces, stop
    return pieces, None


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    stream = DecodeStream(text.encode("x"))
    assert [stream.step(token) for token in text.encode("😀é日b")] == [
        *("", "", "", "😀"),
        *("", "é"),
        *("", "", "日"),
        "b",
    ]


def test_a_prompt_that_ends_inside_a_character_is_given_out_again() -> None:
    # Measured on vLLM 0.32: the prompt [a, F0 9F], continued by the rest of an emoji, answers "a 😀".
    tokens = text.encode("a😀b")
    stream = DecodeStream(tokens[:3])
    assert [stream.step(token) for token in tokens[3:]] == ["", "a😀", "b"]


def test_control_tokens_are_no_text() -> None:
    stream = DecodeStream([text.TURN_START])
    assert [stream.step(token) for token in (text.EOS, *text.encode("ab"))] == ["", "ab"]


def test_invalid_bytes_come_out_as_replacement_once_something_valid_follows() -> None:
    stream = DecodeStream([])
    assert [stream.step(token) for token in [*text.encode("é")[:1], *text.encode("b")]] == ["", "\ufffdb"]


@given(st.text(max_size=40))
def test_pieces_join_to_the_text(value: str) -> None:
    tokens = text.encode(value.replace("\ufffd", "").replace("<", ""))
    detokenizer = Detokenizer([])
    pieces, _ = streamed(detokenizer, tokens)
    assert "".join(pieces) == detokenizer.text == text.decode(tokens)


def test_a_stop_string_ends_the_text_in_front_of_it() -> None:
    detokenizer = Detokenizer([], ("ld a",))
    pieces, stop = streamed(detokenizer, text.encode("hello world again"))
    assert stop == "ld a"
    assert "".join(pieces) == detokenizer.text == "hello wor"


def test_what_may_begin_a_stop_string_is_not_streamed_early() -> None:
    detokenizer = Detokenizer([], ("world",))
    for token in text.encode("hello wor"):
        detokenizer.push(token)
        assert "wor" not in detokenizer.take(finished=False)
    assert detokenizer.take(finished=True).endswith("wor")


def test_a_stop_string_is_kept_when_asked_for() -> None:
    detokenizer = Detokenizer([], ("wo",), include_stop=True)
    pieces, stop = streamed(detokenizer, text.encode("hello world"))
    assert (stop, "".join(pieces)) == ("wo", "hello wo")


def test_the_stop_string_that_is_complete_first_wins() -> None:
    detokenizer = Detokenizer([], ("orld", "wor"))
    assert streamed(detokenizer, text.encode("hello world"))[1] == "wor"


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    tokens = text.encode("aaaa bbbb cccc bbbb")
    detokenizer = Detokenizer([], ("bbbb",), min_tokens=2)
    assert streamed(detokenizer, tokens)[1] == "bbbb"
    assert detokenizer.text == "aaaa bbbb cccc "


def test_a_stop_string_may_lie_across_tokens_and_half_characters() -> None:
    detokenizer = Detokenizer([], ("o😀w",))
    pieces, stop = streamed(detokenizer, text.encode("hello😀world"))
    assert (stop, "".join(pieces)) == ("o😀w", "hell")
