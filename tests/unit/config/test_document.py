from __future__ import annotations

from typing import Any

import pytest

from shoal.config.document import MAX_DEPTH, MAX_VALUES, Document, parse
from shoal.config.errors import ConfigError


def read(text: str, **env: str) -> Document:
    return parse(text, "c.yaml", env)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_every_key_and_value_has_its_line_and_column() -> None:
    document = read("a: 1\nb:\n  - c: x\n  -   5\n")
    assert document.data == {"a": 1, "b": [{"c": "x"}, 5]}
    places = {k: (p.line, p.column, p.key_line, p.key_column) for k, p in document.places.items()}
    assert places == {
        ("a",): (1, 4, 1, 1),
        ("b",): (3, 3, 2, 1),
        ("b", 0): (3, 5, 3, 5),
        ("b", 0, "c"): (3, 8, 3, 5),
        ("b", 1): (4, 7, 4, 7),
    }


def test_what_is_not_in_the_file_is_placed_at_the_nearest_thing_around_it() -> None:
    document = read("a: 1\nb:\n  c: 1\n")
    assert document.place(("b", "missing", 3)).line == 3
    assert document.place(("nowhere",)).line == 1


def test_duplicate_keys_are_all_told_and_the_first_counts() -> None:
    document = read("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert [str(p) for p in document.problems] == [
        "c.yaml:2:1: `a` is given twice, first in line 1",
        "c.yaml:3:11: `b.c` is given twice, first in line 3",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n\tb: 1\n", "c.yaml:2:1: a tab cannot indent"),
        ("a: [1, 2\n", "c.yaml:2:1: "),
        ("a: b: c\n", "c.yaml:1:5: "),
        ("a: 'x\n", "closing quote is missing"),
        ("a: @x\n", "cannot begin with @; put it in quotes"),
        ("a: *x\n", "no anchor"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document"),
        ("a: !foo 1\n", "c.yaml:1:4: the tag !foo has no meaning here"),
        ("a: !!python/object:os.system x\n", "has no meaning here"),
        ("a: \x00\n", "c.yaml:1:4: this character is not allowed in YAML: U+0000"),
        ("a: 1\nb: 2\n  c: 3\n", "c.yaml:3:4: "),
        ("a: [${X}]\n", 'a variable needs quotes: "${NAME}"'),
        ("[" * 100_000, f"c.yaml:1:{MAX_DEPTH + 1}: this is nested more than {MAX_DEPTH} levels deep"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: &a {<<: *a}\n", "contains itself"),
    ],
)
def test_what_is_no_usable_yaml_is_refused_with_its_place(text: str, told: str) -> None:
    message = refused(text)
    assert told in message
    assert message.startswith("c.yaml:")


def test_a_line_that_may_hold_a_secret_is_not_repeated() -> None:
    assert "hunter2" not in refused("cluster:\n  secret: hunter2: x\n")


def test_a_bomb_of_aliases_is_refused() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
    assert f"more than {MAX_VALUES} values" in refused("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n" + levels)


def test_aliases_and_merges_work() -> None:
    document = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\nd: *a\n")
    assert document.data["b"] == {"x": 1, "y": 3}
    assert document.data["c"] == {"x": 1, "y": 2, "z": 4}
    assert document.data["d"] == {"x": 1, "y": 2}
    assert not document.problems


@pytest.mark.parametrize("text", ["1: x\n", "? [a]\n: x\n", "~: x\n", "true: x\n"])
def test_keys_must_be_text_and_the_rest_is_still_read(text: str) -> None:
    document = read(text + "b: 2\n")
    assert document.data == {"b": 2}
    assert "a key must be a word" in str(document.problems[0]) or "is not text" in str(document.problems[0])
    assert not document.broken


@pytest.mark.parametrize("text", ['a: "\\ud800"\n', 'a: "x\\0y"\n', '"\\0": 1\n'])
def test_escapes_cannot_make_what_is_no_text(text: str) -> None:
    assert "cannot hold the character U+" in str(read(text).problems[0])


@pytest.mark.parametrize(("text", "data"), [("", None), ("# nothing\n", None), ("~\n", None), ("[1]\n", [1])])
def test_a_file_without_a_mapping_is_read_all_the_same(text: str, data: Any) -> None:
    assert read(text).data == data


def test_variables_are_replaced_and_remembered() -> None:
    document = read("a: ${X}\nb: ${Y:-5}\n", X="1")
    assert document.data == {"a": "1", "b": "5"}
    assert document.places["a",].variables == ("X",)
    assert document.places["b",].defaults == ("Y",)


def test_a_missing_variable_is_told_where_it_stands() -> None:
    document = read("a: x-${X}\n")
    assert str(document.problems[0]).startswith("c.yaml:1:6: `a`: environment variable X is not set")
    assert document.data == {"a": None}
    assert document.broken == {("a",)}


def test_a_number_that_cannot_be_held_is_a_problem() -> None:
    assert "a number that cannot be held" in str(read(f"a: {'9' * 5000}\n").problems[0])
