from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim.errors import ApiError, InvalidFieldError
from shoal.sim.fields import Fields, decode_json


@given(st.binary(max_size=60))
def test_any_body_is_decoded_or_answered_with_400(body: bytes) -> None:
    try:
        decode_json(body)
    except ApiError as error:
        assert error.status == 400


def test_broken_json_is_located_as_fastapi_does() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        decode_json(b'{"model":"tiny"')
    assert caught.value.param == "body.15"
    assert "Expecting ',' delimiter" in caught.value.message
    with pytest.raises(InvalidFieldError, match="Field required"):
        decode_json(b"")


@pytest.mark.parametrize("body", [b"\xff", b"1" * 5000, b"[" * 100_000])
def test_absurd_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidFieldError, match="JSON decode error"):
        decode_json(body)


def test_what_only_the_standard_library_takes_is_taken() -> None:
    assert decode_json(b'{"x": "\\ud800"}') == {"x": "\ud800"}


def test_null_and_absent_are_the_same() -> None:
    fields = Fields({"x": None})
    for name in ("x", "y"):
        assert fields.integer(name) is fields.number(name) is fields.string(name) is None
        assert fields.items(name) is fields.mapping(name) is None
        assert fields.strings(name) == ()
        assert fields.boolean(name, True)


def test_readings_are_as_lenient_as_pydantics() -> None:
    fields = Fields(
        {"a": "5", "b": 5.0, "c": True, "d": "yes", "e": 0, "f": "1.5", "g": "x", "h": ["x", "y"]}
    )
    assert [fields.integer(name) for name in "abc"] == [5, 5, 1]
    assert [fields.boolean(name) for name in "cde"] == [True, True, False]
    assert [fields.number(name) for name in "bf"] == [5.0, 1.5]
    assert [fields.strings(name) for name in "gh"] == [("x",), ("x", "y")]


@pytest.mark.parametrize(
    ("read", "value", "kind"),
    [
        (Fields.integer, "x", "int_parsing"),
        (Fields.integer, 1.5, "int_from_float"),
        (Fields.integer, [], "int_type"),
        (Fields.number, "x", "float_parsing"),
        (Fields.number, {}, "float_type"),
        (Fields.boolean, "maybe", "bool_parsing"),
        (Fields.boolean, 7, "bool_parsing"),
        (Fields.boolean, [], "bool_type"),
        (Fields.string, 1, "string_type"),
        (Fields.items, "x", "list_type"),
        (Fields.mapping, [], "model_attributes_type"),
        (Fields.strings, 5, "string_type"),
        (Fields.strings, ["x", 5], "string_type"),
    ],
)
def test_wrong_types_are_named_as_pydantic_names_them(
    read: Callable[[Fields, str], Any], value: object, kind: str
) -> None:
    with pytest.raises(InvalidFieldError, match=kind):
        read(Fields({"x": value}), "x")


def test_a_body_must_be_an_object_and_have_what_is_required() -> None:
    with pytest.raises(InvalidFieldError, match="valid dictionary"):
        Fields([])
    with pytest.raises(InvalidFieldError, match="Field required"):
        Fields({}).require("messages")
