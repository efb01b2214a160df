"""Says in words what pydantic found, and where in the file it is."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic_core import ErrorDetails

from shoal.config.base import Section
from shoal.config.document import Document
from shoal.config.engine_args import ArgumentError
from shoal.config.errors import HIDDEN, Problem, SettingPath, is_secret, printable, shorten, show_value, spell
from shoal.config.rules import SECRET_VARIABLE
from shoal.config.scalars import FromVariable, scalar_value
from shoal.config.schema import Config
from shoal.config.shape import all_settings, expected, fields_of, shape_of

_TIME = re.compile(r"\d+(\.\d+)?\s*(ms|s|sec|seconds?|m|min|minutes?|h|hours?)")
_TIMES = (
    "_timeout",
    "timeout",
    "_interval",
    "leave_after",
    "healthy_after",
    "takeover_after",
    "return_after",
    "_delay",
    "_delay_max",
)
_KEY = "[key]"  # how pydantic marks an error with a mapping's key


def problem_of(error: ErrorDetails, data: Any, document: Document, root: type[Section] = Config) -> Problem:
    """Return the problem for an error of the schema.

    Args:
        error: as pydantic tells it.
        data: what was validated.
        document: the file.
        root: what the file should be.
    """
    path: SettingPath = error["loc"]
    if path and path[-1] == _KEY:
        path = path[:-1]
        message = f"{show_value(path[-1])} is no name for an environment variable in `{spell(path[:-1])}`"
        return document.problem(path, message, at_key=True)
    if error["type"] == "extra_forbidden":
        return document.problem(path, _unknown_key(path, root), at_key=True)
    if error["type"] == "missing":
        return _missing(path, document, root)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ArgumentError):
        path = (*path, *cause.below)
    return document.problem(
        path, _wrong_value(error, path, data, document, root), at_key=value_at(data, path) is None
    )


def _unknown_key(path: SettingPath, root: type[Section]) -> str:
    *around, key = path
    parent = shape_of(tuple(around), root)
    known = list(fields_of(parent.section)) if parent and parent.section else []
    where = f" in `{spell(tuple(around))}`" if around else ""
    text = f"unknown key `{printable(shorten(str(key)))}`{where}"
    if close := difflib.get_close_matches(str(key).replace("-", "_").lower(), known, 1, 0.6):
        return f"{text}; did you mean `{close[0]}`?"
    elsewhere = [p for p in all_settings(root) if p[-1] == key]
    if elsewhere:
        return f"{text}; did you mean `{spell(elsewhere[0])}`?"
    return f"{text}; known here are {', '.join(known)}"


def _missing(path: SettingPath, document: Document, root: type[Section]) -> Problem:
    *around, key = path
    shape = shape_of(tuple(around), root)
    field = fields_of(shape.section).get(str(key)) if shape and shape.section else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    if path in document.places:
        return document.problem(
            path, f"`{spell(path)}` has no value{_origin(path, document)}{meaning}", at_key=True
        )
    where = f" in `{spell(tuple(around))}`" if around else ""
    return document.problem(path, f"`{key}` is missing{where}{meaning}")


def _wrong_value(
    error: ErrorDetails, path: SettingPath, data: Any, document: Document, root: type[Section]
) -> str:
    raw = value_at(data, path)
    value = HIDDEN if is_secret(path) and not isinstance(raw, dict | list) else _shown(raw)
    text = f"`{spell(path)}` is {value}{_origin(path, document)}"
    own = error.get("ctx", {}).get("error")
    if isinstance(own, ValueError):
        return f"{text}; {own}"
    shape = shape_of(path, root)
    if error["type"] == "string_pattern_mismatch":
        field = shape_of(path[:-1], root)
        described = fields_of(field.section)[str(path[-1])].description if field and field.section else None
        return f"{text}; it does not have the form it needs. {described or ''}".rstrip()
    right = expected(shape) if shape is not None else "something else"
    return f"{text}; it must be {right}{_advice(path, raw, right)}"


def _shown(raw: Any) -> str:
    if isinstance(raw, FromVariable):
        try:
            return show_value(scalar_value(raw))
        except ValueError:
            return show_value(str(raw))
    if isinstance(raw, str) and "://" in raw and "@" in raw:  # a password may be in there
        scheme, _, rest = raw.partition("://")
        return show_value(f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}")
    return show_value(raw)


def _origin(path: SettingPath, document: Document) -> str:
    """Return which environment variables made the value, if any did."""
    if path == ("cluster", "secret") and path not in document.places:
        return f" (from the environment variable {SECRET_VARIABLE})"
    place = document.places.get(path)
    if place is None or not place.variables:
        return ""
    plural = "s" if len(place.variables) > 1 else ""
    return f" (from the environment variable{plural} {', '.join(place.variables)})"


def _advice(path: SettingPath, raw: Any, right: str) -> str:
    """Return a hint for the commonest slips: quotes around a number, units of time, words for true, case."""
    if not isinstance(raw, str):
        return ""
    text = raw.strip()
    if "number" in right:
        if _TIME.fullmatch(text) and str(path[-1]).endswith(_TIMES):
            return "; a time is a number of seconds, without a unit"
        try:
            is_number = isinstance(scalar_value(text), int | float)
        except ValueError:
            is_number = False
        return "; remove the quotes" if is_number and not isinstance(raw, FromVariable) else ""
    if right == "true or false":
        word = {"yes": "true", "on": "true", "true": "true"} | {
            "no": "false",
            "off": "false",
            "false": "false",
        }
        return f"; write {word[text.lower()]}, without quotes" if text.lower() in word else ""
    words = re.split(r", | or ", right)
    close = difflib.get_close_matches(text.lower().replace("-", "_"), words, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def value_at(data: Any, path: SettingPath) -> Any:
    """Return what `data` holds at `path`, None where it holds nothing."""
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data
