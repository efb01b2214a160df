from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config.scalars import FromVariable
from shoal.config.variables import substitute

ENV = {"HOST": "10.0.0.1", "PORT": "8000", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${HOST}", "10.0.0.1"),
        ("http://${HOST}:${PORT}/", "http://10.0.0.1:8000/"),
        ("${UNSET:-eth0}", "eth0"),
        ("${EMPTY:-eth0}", "eth0"),
        ("${UNSET:-}", ""),
        ("${EMPTY}", ""),
        ("${HOST:-other}", "10.0.0.1"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$HOST costs 5$", "$HOST costs 5$"),
        ("plain", "plain"),
    ],
)
def test_references_are_replaced(text: str, result: str) -> None:
    found = substitute(text, ENV)
    assert found.text == result
    assert not found.problems


def test_a_missing_variable_is_named_with_what_to_do() -> None:
    (problem,) = substitute("a${NOPE}", ENV).problems
    assert problem == (1, "environment variable NOPE is not set; set it, or write ${NOPE:-default}")


@pytest.mark.parametrize(
    "text", ["${", "${}", "${1A}", "${A-b}", "${A:?why}", "${A B}", "${A:-${B}}", "x${HOST"]
)
def test_anything_else_that_begins_like_a_reference_is_a_problem(text: str) -> None:
    problems = substitute(text, ENV).problems
    assert problems
    assert "write ${NAME} or ${NAME:-default}" in problems[0][1]


def test_only_a_whole_text_from_a_variable_has_an_open_type() -> None:
    assert isinstance(substitute("${PORT}", ENV).text, FromVariable)
    assert isinstance(substitute("${UNSET:-5}", ENV).text, FromVariable)
    for text in ("1${PORT}", "${PORT}${PORT}", "$${PORT}", "8000"):
        assert not isinstance(substitute(text, ENV).text, FromVariable)


def test_it_is_known_which_variables_took_part() -> None:
    found = substitute("${HOST}:${UNSET:-1}", ENV)
    assert found.variables == ["HOST", "UNSET"]
    assert found.defaults == ["UNSET"]


@given(st.text())
def test_what_a_variable_holds_is_never_looked_into(value: str) -> None:
    assert substitute("${X}", {"X": value}).text == value


@given(st.text(alphabet="${}:-AB $"))
def test_no_text_makes_substitution_fail(text: str) -> None:
    result = substitute(text, {"A": "1"})
    assert result.problems or "${" not in result.text or "$${" in text
