"""Problems of a configuration file, told in words and with a place, and the exception that carries them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SettingPath = tuple[str | int, ...]
"""Where a setting is in the file's structure: ``("nodes", 0, "port")``."""

HIDDEN = "(hidden)"
_SECRET_KEYS = frozenset({"secret", "api_key", "password"})
_KEY_LISTS = frozenset({"api_key", "api_keys", "admin_keys"})
_SECRET_WORDS = frozenset(
    {"token", "key", "apikey", "secret", "password", "passwd", "passphrase", "credential", "credentials"}
)
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: the file as the user named it.
        message: one line: what is wrong and what would be right.
        line: 1-based line, None where the problem is the file itself (it does not exist, say).
        column: 1-based column, None with `line`.
    """

    file: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. ``str()`` is the whole message: a problem per line, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(set(problems), key=lambda p: (p.line or 0, p.column or 0, p.message))
        self.problems: tuple[Problem, ...] = tuple(ordered)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def spell(path: SettingPath) -> str:
    """Return a setting's name as people write it: ``nodes[0].port``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + printable(shorten(step))
    return text


def printable(text: str) -> str:
    """Return `text` with line breaks and other invisible characters escaped: messages stay on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shorten(text: str, limit: int = _LONGEST) -> str:
    """Return `text`, its end replaced by ``...`` when it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def show_value(value: Any) -> str:
    """Return a value from a YAML file for use in a sentence, as it would be written in YAML, shortened."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 256:  # converting it to decimal may be refused, and helps nobody
            return f"a number of {value.bit_length()} bits"
        case str():
            return f'"{printable(shorten(value))}"'
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return shorten("[" + ", ".join(show_value(item) for item in value) + "]")
        case _:
            return str(value)


def is_secret(path: SettingPath) -> bool:
    """Return whether the value at `path` must never be printed: secrets, keys, what is named like them."""
    if not _KEY_LISTS.isdisjoint(path):
        return True
    last = path[-1] if path else ""
    if not isinstance(last, str):
        return False
    if last in _SECRET_KEYS:
        return True
    return ("args" in path or "env" in path) and is_secret_name(last)


def is_secret_name(name: str) -> bool:
    """Return whether an argument or environment variable is named like something to hide (``HF_TOKEN``)."""
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower()))
