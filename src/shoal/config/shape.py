"""Looks up what the schema expects at a path, for messages that name the right values."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic.fields import FieldInfo

from shoal.config.base import Section, listed
from shoal.config.errors import SettingPath
from shoal.config.schema import Config

_NONE = type(None)


@dataclass(frozen=True, slots=True)
class Shape:
    """The type that the schema gives a setting, and the constraints on it."""

    annotation: Any
    constraints: tuple[Any, ...] = ()

    @property
    def section(self) -> type[Section] | None:
        """The section that belongs here, None where a plain value does."""
        kind = self.annotation
        return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def shape_of(path: SettingPath, root: type[Section] = Config) -> Shape | None:
    """Return what the schema of a file expects at `path`, None where it knows no such setting."""
    shape = Shape(root)
    for step in path:
        origin = get_origin(shape.annotation)
        if shape.section is not None and isinstance(step, str):
            field = fields_of(shape.section).get(step)
            if field is None:
                return None
            shape = _unwrap(field.annotation, tuple(field.metadata))
        elif origin is tuple and isinstance(step, int):
            shape = _unwrap(get_args(shape.annotation)[0])
        elif origin is dict:
            shape = _unwrap(get_args(shape.annotation)[1])
        else:
            return None
    return shape


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the keys a section has in the file, with their fields."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def all_settings(section: type[Section] = Config, path: SettingPath = ()) -> Iterator[SettingPath]:
    """Yield the path of every setting; of lists, that of their first item's settings."""
    for key, field in fields_of(section).items():
        inner = (*path, key)
        yield inner
        shape = _unwrap(field.annotation)
        if get_origin(shape.annotation) is tuple:
            shape, inner = _unwrap(get_args(shape.annotation)[0]), (*inner, 0)
        if shape.section is not None:
            yield from all_settings(shape.section, inner)


def expected(shape: Shape) -> str:
    """Return what a value must be, for a sentence: ``a whole number from 1 to 65535``."""
    kind, origin = shape.annotation, get_origin(shape.annotation)
    if shape.section is not None or origin is dict:
        return "a mapping (lines of `key: value`)"
    if origin is Literal:
        return listed(get_args(kind))
    if origin is tuple:
        return "a list with at least one entry" if _bound(shape, at.MinLen) else "a list"
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return _number(shape)
    if kind in (str, Path):
        least, most = _bound(shape, at.MinLen), _bound(shape, at.MaxLen)
        if least and most:
            return f"text of {least} to {most} characters"
        return f"text of at most {most} characters" if most else "text"
    return "something else"


def _number(shape: Shape) -> str:
    noun = "a whole number" if shape.annotation is int else "a number"
    least, above, most = _bound(shape, at.Ge), _bound(shape, at.Gt), _bound(shape, at.Le)
    if least is not None and most is not None:
        return (
            f"{noun} from {least:g} to {most:g}" if noun == "a number" else f"{noun} from {least} to {most}"
        )
    if above is not None:
        return f"{noun} above {above:g}" + (f", at most {most:.9g}" if most is not None else "")
    return noun


def _bound(shape: Shape, kind: type) -> Any:
    names = {at.Ge: "ge", at.Gt: "gt", at.Le: "le", at.MinLen: "min_length", at.MaxLen: "max_length"}
    return next((getattr(c, names[kind]) for c in shape.constraints if isinstance(c, kind)), None)


def _unwrap(annotation: Any, constraints: tuple[Any, ...] = ()) -> Shape:
    """Take `Annotated` and ``| None`` off a type, and collect the constraints of the former."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        found = [c for m in metadata for c in (m.metadata if isinstance(m, FieldInfo) else [m])]
        return _unwrap(inner, (*constraints, *found))
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not _NONE]
        if len(options) == 1:
            return _unwrap(options[0], constraints)
    return Shape(annotation, constraints)
