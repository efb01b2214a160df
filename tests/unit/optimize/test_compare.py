from __future__ import annotations

from typing import Any

import pytest

from shoal.optimize.compare import (
    Limits,
    Measured,
    Speed,
    agreement,
    broken,
    markdown,
    perplexity_rise,
    rows,
    same_answers,
    share,
    speed_up,
)
from shoal.optimize.errors import OptimizeError


def measured(**changes: Any) -> Measured:
    about: dict[str, Any] = {
        "name": "a",
        "size": 200_000_000,
        "memory": 400_000_000,
        "perplexity": 10.0,
        "likeliest": (1, 2, 3, 4),
        "answers": ((1, 2, 3, 4), (5, 6, 7, 8)),
        "speeds": (Speed(1, 0.1, 0.02, 40.0), Speed(4, 0.2, 0.04, 90.0)),
    }
    return Measured(**about | changes)


A = measured()
B = measured(
    name="b",
    size=100_000_000,
    memory=300_000_000,
    perplexity=10.5,
    likeliest=(1, 2, 3, 9),
    answers=((1, 2, 3, 4), (5, 9, 7, 8)),
    speeds=(Speed(1, 0.05, 0.01, 80.0), Speed(4, 0.1, 0.02, 180.0)),
)


def test_what_differs_is_told_as_shares_and_factors() -> None:
    assert perplexity_rise(A, B) == pytest.approx(0.05)
    assert agreement(A, B) == 0.75
    assert same_answers(A, B) == pytest.approx((1 + 0.25) / 2)
    assert speed_up(A, B) == 2.0
    assert (agreement(A, A), same_answers(A, A), perplexity_rise(A, A)) == (1, 1, 0)


def test_the_table_has_every_number_of_both() -> None:
    text = markdown(A, B)
    for cell in (
        "200 MB",
        "2.00 x smaller",
        "-25.0 %",
        "| perplexity | 10.00 | 10.50 | +5.0 % |",
        "75.0 %",
        "180.0",
    ):
        assert cell in text
    assert all(len(row) == 4 for row in rows(A, B))
    assert "memory" not in markdown(A, measured(memory=None))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), ""),
        (Limits(perplexity_rise=0.06, agreement=0.7, speed_up=1.9, smaller=1.5), ""),
        (Limits(perplexity_rise=0.03), "perplexity changes by +5.0 %, at most +3.0 % is asked"),
        (Limits(agreement=0.8), "0.750 of the likeliest tokens agree"),
        (Limits(speed_up=2.5), "2.00 times as fast"),
        (Limits(smaller=3), "2.00 times smaller"),
    ],
)
def test_limits_that_are_not_kept_are_named(limits: Limits, words: str) -> None:
    problems = list(broken(A, B, limits))
    assert len(problems) == bool(words)
    assert words in "".join(problems)


def test_a_model_that_computes_nonsense_keeps_no_limit() -> None:
    assert list(broken(A, measured(perplexity=float("nan")), Limits(perplexity_rise=0.03)))


@pytest.mark.parametrize(("text", "value"), [("3%", 0.03), ("0.03", 0.03), (" 15 % ", 0.15), ("1", 1.0)])
def test_shares_are_written_in_two_ways(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "three", "nan%", "inf"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OptimizeError, match="write 3% or"):
        share(text)
