from __future__ import annotations

from typing import Any

import pytest

from shoal.sim import text
from shoal.sim.errors import ApiError
from shoal.sim.fields import Fields
from shoal.sim.sampling import check_ids, number_of_answers, parse_sampling


def test_an_answer_is_as_long_as_asked_for_and_as_fits() -> None:
    assert parse_sampling(Fields({}), 5, 100).max_tokens == 5
    assert parse_sampling(Fields({}), 500, 100).max_tokens == 100
    assert parse_sampling(Fields({}), None, 100).max_tokens == 100


def test_what_ends_an_answer_is_read() -> None:
    sampling = parse_sampling(
        Fields(
            {
                "stop": "x",
                "stop_token_ids": [5],
                "min_tokens": 2,
                "ignore_eos": True,
                "include_stop_str_in_output": 1,
            }
        ),
        None,
        10,
    )
    assert (sampling.stop, sampling.stop_token_ids, sampling.min_tokens) == (("x",), {5}, 2)
    assert sampling.ignore_eos
    assert sampling.include_stop


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"temperature": -1},
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        ),
        ({"temperature": 3}, "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)"),
        ({"top_p": 3}, "top_p must be in (0, 1], got 3.0. (parameter=top_p, value=3.0)"),
        ({"top_k": -2}, "top_k must be 0 (disable), or at least 1, got -2."),
        ({"presence_penalty": 5}, "presence_penalty must be in [-2, 2], got 5.0."),
        ({"min_tokens": -1}, "min_tokens must be greater than or equal to 0, got -1."),
        ({"min_tokens": 9}, "min_tokens must be less than or equal to max_tokens=3, got 9."),
        ({"stop": [""]}, "stop cannot contain an empty string."),
        ({"stop_token_ids": [text.VOCABULARY]}, f"Token id {text.VOCABULARY} is out of vocabulary"),
    ],
)
def test_values_out_of_range_are_refused_in_vllms_words(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_sampling(Fields(body), 3, 100)
    assert caught.value.message == words


def test_no_room_for_an_answer_is_refused() -> None:
    with pytest.raises(ApiError, match="max_tokens must be at least 1, got 0"):
        parse_sampling(Fields({}), 30, 0)


def test_more_stops_than_vllm_takes_are_refused() -> None:
    with pytest.raises(ApiError, match="at most 4 items"):
        parse_sampling(Fields({"stop": list("abcde")}), 3, 100)


def test_the_number_of_answers_is_checked() -> None:
    assert number_of_answers(Fields({})) == 1
    assert number_of_answers(Fields({"n": 3, "temperature": 0.5})) == 3
    for body, words in (
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling, got 2."),
        ({"n": 10**6}, "n must be at most 16384"),
    ):
        with pytest.raises(ApiError, match=words):
            number_of_answers(Fields(body))


@pytest.mark.parametrize("ids", [[-1], ["a"], [True], [None], [1.5]])
def test_what_is_no_token_id_is_refused(ids: list[Any]) -> None:
    with pytest.raises(ApiError, match=r"body\.prompt\.0"):
        check_ids(ids, "prompt")
