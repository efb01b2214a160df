"""Takes secrets out of what is handed to others: those that are known by value, and what looks like one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from shoal.config.errors import HIDDEN, is_secret_name

_SHORTEST: Final = 6  # characters of a value that is looked for: shorter ones stand in every other word

_PATTERNS: Final = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(\w://)[^\s/@:]*:[^\s/@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(?:hf_|sk-|ghp_|glpat-|xox[bp]-)[\w-]{8,}"), HIDDEN),
    (re.compile(r"(?i)(--[\w-]*(?:key|token|password|secret))([= ]+)(?!-)\S+"), rf"\1\2{HIDDEN}"),
    (
        re.compile(
            r"(?i)\b([\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|credential))"
            r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;}&]{3,}"
        ),
        rf"\1\2{HIDDEN}",
    ),
)


class Scrubber:
    """Blanks secrets.

    Args:
        secrets: values to look for wherever they stand.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text

    def tree(self, value: Any) -> Any:
        """Return a JSON document without secrets: in its texts, and of what is named like one."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {
                    self.text(str(name)): HIDDEN
                    if isinstance(inner, str) and inner and is_secret_name(str(name))
                    else self.tree(inner)
                    for name, inner in value.items()
                }
            case list() | tuple():
                return [self.tree(inner) for inner in value]
            case _:
                return value


def secrets_in(document: Any, env: Mapping[str, str]) -> set[str]:
    """Return the secrets that a configuration and an environment hold, by the names they have there.

    Args:
        document: the configuration as plain data.
        env: environment variables.
    """
    found = set(_secrets(document, named=False))
    for name, value in env.items():
        if is_secret_name(name) or name.lower().endswith("_keys"):
            found.update((value, *value.split(",")))
        found.update(_password(value))
    return {value.strip() for value in found}


def _secrets(value: Any, *, named: bool) -> Iterator[str]:
    match value:
        case str():
            if named:
                yield value
            yield from _password(value)
        case dict():
            for name, inner in value.items():
                lower = str(name).lower()
                yield from _secrets(inner, named=named or is_secret_name(lower) or lower.endswith("_keys"))
        case list() | tuple():
            former = ""
            for inner in value:
                option, equals, rest = inner.partition("=") if isinstance(inner, str) else ("", "", "")
                if equals and option.startswith("-") and is_secret_name(option):
                    yield rest
                yield from _secrets(inner, named=named or (former.startswith("-") and is_secret_name(former)))
                former = inner if isinstance(inner, str) else ""


def _password(text: str) -> Iterator[str]:
    if "://" in text and "@" in text:
        try:
            password = urlsplit(text).password
        except ValueError:
            return
        if password:
            yield password
