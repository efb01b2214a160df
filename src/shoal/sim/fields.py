"""Typed reading of JSON bodies, with pydantic's leniency and pydantic's complaints."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shoal.sim.errors import InvalidFieldError, missing

_TRUE = frozenset({"true", "1", "on", "t", "y", "yes"})
_FALSE = frozenset({"false", "0", "off", "f", "n", "no"})
_PYDANTIC_INT = "Input should be a valid integer"


def decode_json(body: bytes) -> object:
    """Decode a request body.

    Raises:
        InvalidFieldError: empty, or no JSON; in FastAPI's words.
    """
    if not body:
        raise InvalidFieldError("missing", "", "Field required", None)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # The standard library takes a little more (NaN, lone surrogates), as vLLM does, and names the position.
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise InvalidFieldError(
            "json_invalid", str(error.pos), "JSON decode error", {}, {"error": error.msg}
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, absurdly long numbers, absurdly deep nesting
        raise InvalidFieldError(
            "json_invalid", "0", "JSON decode error", {}, {"error": str(error)}
        ) from error


class Fields:
    """The fields of a JSON object. Null counts as absent; unknown fields are ignored.

    Args:
        data: a decoded body.

    Raises:
        InvalidFieldError: `data` is no object.
    """

    __slots__ = ("data",)

    def __init__(self, data: object) -> None:
        if not isinstance(data, dict):
            text = "Input should be a valid dictionary or object to extract fields from"
            raise InvalidFieldError("model_attributes_type", "", text, data)
        self.data: dict[str, Any] = data

    def get(self, name: str) -> Any:
        """Return the field as it is, None if it is absent."""
        return self.data.get(name)

    def require(self, name: str) -> Any:
        """Return the field as it is.

        Raises:
            InvalidFieldError: there is no such field.
        """
        if name not in self.data:
            raise missing(name, self.data)
        return self.data[name]

    def integer(self, name: str) -> int | None:
        """Return a whole number, also one in a string."""
        value = self.data.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float):
            if value.is_integer():
                return int(value)
            text = f"{_PYDANTIC_INT}, got a number with a fractional part"
            raise InvalidFieldError("int_from_float", name, text, value)
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                text = f"{_PYDANTIC_INT}, unable to parse string as an integer"
                raise InvalidFieldError("int_parsing", name, text, value) from None
        raise InvalidFieldError("int_type", name, _PYDANTIC_INT, value)

    def number(self, name: str) -> float | None:
        """Return a number, also one in a string."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                text = "Input should be a valid number, unable to parse string as a number"
                raise InvalidFieldError("float_parsing", name, text, value) from None
        raise InvalidFieldError("float_type", name, "Input should be a valid number", value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """Return a truth value, also one in a string."""
        value = self.data.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if isinstance(value, str | int) and word in _TRUE | _FALSE:
            return word in _TRUE
        if isinstance(value, str | int | float):
            text = "Input should be a valid boolean, unable to interpret input"
            raise InvalidFieldError("bool_parsing", name, text, value)
        raise InvalidFieldError("bool_type", name, "Input should be a valid boolean", value)

    def string(self, name: str) -> str | None:
        """Return a string."""
        value = self.data.get(name)
        if value is None or isinstance(value, str):
            return value
        raise InvalidFieldError("string_type", name, "Input should be a valid string", value)

    def items(self, name: str) -> list[Any] | None:
        """Return a list."""
        value = self.data.get(name)
        if value is None or isinstance(value, list):
            return value
        raise InvalidFieldError("list_type", name, "Input should be a valid list", value)

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Return an object."""
        value = self.data.get(name)
        if value is None or isinstance(value, dict):
            return value
        text = "Input should be a valid dictionary or object to extract fields from"
        raise InvalidFieldError("model_attributes_type", name, text, value)

    def strings(self, name: str) -> tuple[str, ...]:
        """Return one string or a list of them as a tuple."""
        value = self.data.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list):
            raise InvalidFieldError("string_type", name, "Input should be a valid string", value)
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise InvalidFieldError(
                    "string_type", f"{name}.{index}", "Input should be a valid string", item
                )
        return tuple(value)
