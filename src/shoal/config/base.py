"""The base of all sections of the configuration, and the types its settings share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from shoal.config.paths import Surroundings
from shoal.config.scalars import FromVariable, scalar_value
from shoal.config.sizes import format_size, parse_size

T = TypeVar("T")
Entries = Annotated[tuple[T, ...], Field(strict=False)]
"""A list in the file, a tuple in the configuration."""


class Section(BaseModel):
    """A mapping of the file. Immutable; unknown keys and wrong types are errors, nothing is converted."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _type_variables(cls, value: Any, info: ValidationInfo) -> Any:
        """Decide what the text of a variable is where it is the whole value: text here, a number there."""
        field = cls.model_fields[str(info.field_name)]
        return typed(value, takes_text=_takes_text(field.annotation))


def typed(value: Any, *, takes_text: bool) -> Any:
    """Return `value` with each `FromVariable` in it settled: text, or what YAML would make of that text.

    Raises:
        ValueError: it looks like a number but is none that can be held.
    """
    if isinstance(value, FromVariable):
        return str(value) if takes_text else scalar_value(value)
    if isinstance(value, list):
        return [typed(item, takes_text=takes_text) for item in value]
    return value


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return annotation in (str, Path) or any(_takes_text(inner) for inner in get_args(annotation))


def surroundings(info: ValidationInfo) -> Surroundings:
    """Return what paths are relative to: the validation's context, else this process's surroundings."""
    return info.context if isinstance(info.context, Surroundings) else Surroundings()


def _expand(value: str, info: ValidationInfo) -> str:
    return surroundings(info).expand(value)


def single_line(value: str) -> str:
    """Return `value` if it is one visible line of text, raise ValueError otherwise."""
    if not value.strip():
        raise ValueError("it must not be empty")
    if not value.isprintable():
        raise ValueError("it must be one line without invisible characters")
    if value != value.strip():
        raise ValueError("it must not begin or end with a space")
    return value


def _beside_file(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    around = surroundings(info)
    return around.base / around.expand(single_line(value))


FilePath = Annotated[Path, BeforeValidator(_beside_file)]
"""The path of a file, in the file relative to its own directory."""


def distinct(value: tuple[T, ...]) -> tuple[T, ...]:
    """Return `value` if no item comes twice, raise ValueError otherwise."""
    twice = next((item for i, item in enumerate(value) if item in value[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice")
    return value


def bytes_between(least: int, most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return the metadata of a size setting: parsed from text, bounded (both ends allowed)."""

    def parse(value: object) -> int:
        size = parse_size(value)
        if not least <= size <= most:
            raise ValueError(f"it must be a size from {format_size(least)} to {format_size(most)}")
        return size

    schema = {
        "anyOf": [
            {"type": "integer", "minimum": least, "maximum": most},
            {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtT]?[iI]?[bB])\s*$"},
        ],
    }
    return BeforeValidator(parse), WithJsonSchema(schema)


def listed(words: Iterable[object]) -> str:
    """Return `words` as in a sentence: ``a, b or c``."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


Line = Annotated[str, AfterValidator(single_line)]
"""Text of one line, not empty."""

LocalPath = Annotated[Line, AfterValidator(_expand)]
"""Text that may be a path: ``~``, ``./`` and ``../`` are resolved."""

Seconds = float
"""A time. No units are written."""
