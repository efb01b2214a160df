from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from shoal.sim import text

PROMPTS = st.one_of(
    st.text(max_size=60), st.sampled_from(["hello", "a 😀é日b", "wonderful world", "x" * 9, "abcd"])
)


def answer(tokens: list[int], count: int, **how: bool) -> list[int]:
    continuation = text.Continuation(tokens)
    return [continuation.next(**how) for _ in range(count)]


@given(PROMPTS)
def test_encoding_is_reversible(value: str) -> None:
    assert text.decode(text.encode(value)) == value


@given(st.lists(st.integers(0, text.VOCABULARY - 1), max_size=30))
def test_every_token_stands_for_bytes_that_encode_to_no_more_tokens(tokens: list[int]) -> None:
    data = text.decode_bytes(tokens)
    assert all(text.token_bytes(token) for token in tokens)
    if "\ufffd" not in (decoded := data.decode("utf-8", "replace")):
        assert text.decode(text.encode(decoded)) == decoded


def test_words_and_bytes_are_tokens_and_control_tokens_are_recognised() -> None:
    assert [text.token_bytes(token) for token in text.encode("wonderful 😀")] == [
        *(b"wond", b"erfu", b"l", b" "),
        *(b"\xf0", b"\x9f", b"\x98", b"\x80"),
    ]
    assert text.encode("<|im_start|>x<|im_end|>")[::2] == [text.TURN_START, text.TURN_END]
    assert text.decode([text.TURN_START, *text.encode("x")], skip_special=True) == "x"


def test_lone_surrogates_and_unknown_ids_do_no_harm() -> None:
    assert text.decode(text.encode("a\ud800b")) == "a?b"
    assert text.decode([text.VOCABULARY, -1]) == ""


@given(PROMPTS, st.integers(0, 80))
def test_a_continuation_from_token_ids_is_the_same_at_every_cut(prompt: str, cut: int) -> None:
    tokens = text.encode(prompt)
    whole = answer(tokens, 100)
    assert answer(tokens + whole[:cut], 100 - cut) == whole[cut:]


@given(PROMPTS)
def test_text_cut_between_characters_encodes_to_the_ids_that_made_it(prompt: str) -> None:
    tokens = text.encode(prompt)
    whole = answer(tokens, 60, eos=False)
    for cut in range(61):
        data = text.decode_bytes(whole[:cut])
        if not text.unfinished_character(data):
            assert text.encode(prompt + data.decode()) == tokens + whole[:cut]


def test_answers_are_valid_text_with_characters_split_over_tokens() -> None:
    seen: set[int] = set()
    for seed in range(200):
        tokens = answer(text.encode(f" seed {seed} say"), 60, eos=False)
        data = text.decode_bytes(tokens)
        unfinished = text.unfinished_character(data)
        seen |= {len(char.encode()) for char in data[: len(data) - len(unfinished)].decode()}
    assert seen == {1, 2, 3, 4}


def test_an_answer_after_a_chat_turn_begins_with_a_word() -> None:
    for number in range(300):
        first = answer(text.encode(f"<|im_start|>user\n{number}<|im_end|>\n<|im_start|>assistant\n"), 1)
        assert text.token_bytes(first[0]).decode().strip(" ").isalpha()


def test_answers_end_after_a_sentence_and_only_when_they_may() -> None:
    for seed in range(50):
        prompt = text.encode(f"seed {seed}")
        continuation = text.Continuation(prompt)
        tokens = [continuation.next()]
        while tokens[-1] != text.EOS:
            assert len(tokens) < 5000
            tokens.append(continuation.next())
        assert text.token_bytes(tokens[-2]) == b"."
        assert text.EOS not in answer(prompt, 300, eos=False)


def test_salt_and_choice_change_the_answer_deterministically() -> None:
    tokens = text.encode("hello")

    def first(salt: str, choice: int) -> list[int]:
        continuation = text.Continuation(tokens, salt, choice)
        return [continuation.next() for _ in range(20)]

    answers = [first(salt, choice) for salt in ("", "other") for choice in (0, 1)]
    assert len({tuple(tokens) for tokens in answers}) == 4
    assert answers == [first(salt, choice) for salt in ("", "other") for choice in (0, 1)]


def test_another_process_gives_the_same_answer() -> None:
    code = (
        "from shoal.sim import text\n"
        "c = text.Continuation(text.encode('hello'))\n"
        "print([c.next(eos=False) for _ in range(50)])"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert run.stdout.strip() == str(answer(text.encode("hello"), 50, eos=False))


def test_unfinished_characters_are_told_from_complete_and_broken_ones() -> None:
    assert text.unfinished_character(b"a\xf0\x9f\x98") == b"\xf0\x9f\x98"
    assert text.unfinished_character("a😀".encode()) == b""
    assert text.unfinished_character(b"\x80") == b""
    assert text.unfinished_character(b"\xff") == b""
    assert text.unfinished_character(b"") == b""


def test_a_begun_character_is_completed_to_a_valid_one() -> None:
    for begun in ("é", "日", "😀", "\u0800", "\ud7ff", "\U0010ffff"):
        encoded = begun.encode()
        for cut in range(1, len(encoded)):
            prompt = [*text.encode("ab"), *(text.encode(begun)[:cut])]
            tokens = answer(prompt, len(encoded) - cut)
            assert len(text.decode_bytes(prompt + tokens).decode()) == 3
