"""Environment variables in values: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a literal ``${``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.config.errors import printable, shorten
from shoal.config.scalars import FromVariable

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# An escape, a reference, or the beginning of something that was meant to be one. A default ends at the first
# brace and holds no further reference: nesting would make a second language of it.
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?P<name>{_NAME})(?::-(?P<default>[^{{}}]*))?\}}|\$\{{[^}}]*\}}?")
HOW_TO_WRITE = "write ${NAME} or ${NAME:-default}, or $${ for a literal ${"


@dataclass(slots=True)
class Substitution:
    """A text after its variables were replaced.

    Attributes:
        text: the result; a `FromVariable` when one reference was the whole text.
        variables: names that were replaced, in order.
        defaults: those of `variables` that were not set, so that their default was taken.
        problems: what could not be replaced: (offset in the original text, message).
    """

    text: str
    variables: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def substitute(text: str, env: Mapping[str, str]) -> Substitution:
    """Replace the references in `text` by the variables of `env`. What these hold is not looked into."""
    result = Substitution(text)

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            written = printable(shorten(match[0]))
            result.problems.append((match.start(), f"{written} is not a variable reference; {HOW_TO_WRITE}"))
            return ""
        value = env.get(name)
        # As in the shell, ":-" also covers a variable that is set but empty.
        if default is not None and not value:
            result.variables.append(name)
            result.defaults.append(name)
            return default
        if value is None:
            shown = shorten(name)
            message = f"environment variable {shown} is not set; set it, or write ${{{shown}:-default}}"
            result.problems.append((match.start(), message))
            return ""
        result.variables.append(name)
        return value

    replaced = _REFERENCE.sub(replace, text)
    whole = _REFERENCE.fullmatch(text)
    result.text = FromVariable(replaced) if whole is not None and whole["name"] is not None else replaced
    return result
