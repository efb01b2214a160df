"""Says where each resolved setting came from: a line of the file, an environment variable, or a default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shoal.config.base import Section
from shoal.config.document import Document
from shoal.config.errors import HIDDEN, SettingPath, is_secret, is_secret_name, printable, spell
from shoal.config.schema import Config
from shoal.config.shape import fields_of
from shoal.config.sizes import format_size

SourceKind = Literal["file", "environment", "default"]
_SIZES = frozenset({"max_body", "max_header", "log_max_size", "prefix_memory"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from.

    Attributes:
        kind: what gave it.
        text: for people: ``three.yaml:3``, ``environment variable PORT at three.yaml:3``, ``default``.
        line: 1-based line of the file, None where the file does not have the setting.
        variables: environment variables that took part.
    """

    kind: SourceKind
    text: str
    line: int | None = None
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the resolved configuration.

    Attributes:
        path: where it is.
        value: number, text, list and so on, as JSON has them; masked if secret.
        source: where it came from.
    """

    path: SettingPath
    value: Any
    source: Source

    @property
    def name(self) -> str:
        """The setting as people write it: ``nodes[0].port``."""
        return spell(self.path)

    @property
    def text(self) -> str:
        """The value as people write it in YAML."""
        if self.path[-1] in _SIZES and isinstance(self.value, int):
            return format_size(self.value)
        if isinstance(self.value, float):
            return f"{self.value:.12g}"
        if isinstance(self.value, str):
            return printable(self.value)
        return "-" if self.value is None else json.dumps(self.value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the settings of one file came from.

    Attributes:
        document: the file.
        env: the environment it was read in.
        from_environment: settings that an environment variable gave without the file asking for it.
    """

    document: Document
    env: Mapping[str, str] = field(repr=False)
    from_environment: Mapping[SettingPath, str] = field(default_factory=dict)

    def source(self, path: SettingPath) -> Source:
        """Return where the value of the setting at `path` came from."""
        if (variable := self.from_environment.get(path)) is not None:
            return Source("environment", f"environment variable {variable}", None, (variable,))
        place = self.document.places.get(path)
        if place is not None and self._has_value(path):
            inside = [p for where, p in self.document.places.items() if where[: len(path)] == path]
            return self._from_file(
                place.line,
                tuple(dict.fromkeys(name for p in inside for name in p.variables)),
                tuple(dict.fromkeys(name for p in inside for name in p.defaults)),
            )
        if path[-1] == "name" and (model := self.document.places.get((*path[:-1], "path"))) is not None:
            return Source("default", f"default, from {spell((*path[:-1], 'path'))}", None, model.variables)
        if path == ("state_dir",) and self.env.get("XDG_STATE_HOME", "").startswith("/"):
            return Source(
                "environment", "default, from environment variable XDG_STATE_HOME", None, ("XDG_STATE_HOME",)
            )
        return Source("default", "default")

    def _has_value(self, path: SettingPath) -> bool:
        value = self.document.data
        for step in path:
            value = value[step]
        return value is not None and value != ""

    def _from_file(self, line: int, variables: tuple[str, ...], defaults: tuple[str, ...]) -> Source:
        at = f"{Path(self.document.file).name}:{line}"
        taken = [name for name in variables if name not in defaults]
        if taken:
            plural = "s" if len(taken) > 1 else ""
            text = f"environment variable{plural} {', '.join(taken)} at {at}"
            return Source("environment", text, line, variables)
        if defaults:
            return Source("file", f"{at} ({', '.join(defaults)} not set)", line, variables)
        return Source("file", at, line)


def settings(config: Config, provenance: Provenance) -> tuple[Setting, ...]:
    """Return every setting, in the schema's order, with where it came from. Secrets are masked."""
    return tuple(Setting(path, value, provenance.source(path)) for path, value in _leaves(config, ()))


def values(config: Config) -> dict[str, Any]:
    """Return every setting by its name. Secrets are masked."""
    return {spell(path): value for path, value in _leaves(config, ())}


def _leaves(section: Section, path: SettingPath) -> Iterator[tuple[SettingPath, Any]]:
    for key, info in fields_of(type(section)).items():
        name = next(n for n, f in type(section).model_fields.items() if f is info)
        value, inner = getattr(section, name), (*path, key)
        if isinstance(section, Config) and key in {"model", "models"} and not value:
            continue  # the form the file does not use
        match value:
            case Section():
                yield from _leaves(value, inner)
            case tuple() if value and isinstance(value[0], Section):
                for i, item in enumerate(value):
                    yield from _leaves(item, (*inner, i))
            case dict() if value:
                for entry, given in value.items():
                    yield (*inner, entry), _masked((*inner, entry), given)
            case _:
                yield inner, _masked(inner, value)


def _masked(path: SettingPath, value: Any) -> Any:
    if value not in (None, ()) and is_secret(path):
        return HIDDEN
    match value:
        case Path():
            return str(value)
        case tuple() if "args" in path:
            return _masked_arguments([str(item) for item in value])
        case tuple() | list():
            return [_masked(path, item) for item in value]
        case dict():
            return {key: _masked((*path, key), item) for key, item in value.items()}
        case _:
            return value


def _masked_arguments(items: list[str]) -> list[str]:
    """Hide the value of each argument of a command line that is named like a secret."""
    masked: list[str] = []
    hide_next = False
    for item in items:
        name, equals, _ = item.partition("=")
        is_option = item.startswith("-")
        if hide_next and not is_option:
            masked.append(HIDDEN)
        elif is_option and equals and is_secret_name(name):
            masked.append(f"{name}={HIDDEN}")
        else:
            masked.append(item)
        hide_next = is_option and not equals and is_secret_name(name)
    return masked
