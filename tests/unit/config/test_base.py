from __future__ import annotations

import pytest

from shoal.config.base import listed, single_line, typed
from shoal.config.scalars import FromVariable


def test_a_variable_becomes_what_the_setting_takes() -> None:
    assert typed(FromVariable("5"), takes_text=False) == 5
    assert typed(FromVariable("5"), takes_text=True) == "5"
    assert typed([FromVariable("5"), "6"], takes_text=False) == [5, "6"]
    assert typed("5", takes_text=False) == "5"


def test_no_subclass_of_str_gets_out() -> None:
    assert type(typed(FromVariable("a"), takes_text=True)) is str
    assert type(typed(FromVariable("a"), takes_text=False)) is str


@pytest.mark.parametrize("text", ["", " ", "a\nb", " a", "a ", "a\x1b[0m"])
def test_lines_are_visible_and_single(text: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        single_line(text)


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a or b", "a, b or c"]
