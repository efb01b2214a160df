"""Reads a configuration file: YAML, environment variables, schema and rules, all problems told at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shoal.config import rules
from shoal.config.broker import PASSWORD_VARIABLE
from shoal.config.document import Document, not_utf8, parse
from shoal.config.errors import ConfigError, Problem, SettingPath, show_value
from shoal.config.explain import Provenance, Setting, settings
from shoal.config.keys_file import read_keys
from shoal.config.messages import problem_of, value_at
from shoal.config.paths import Surroundings
from shoal.config.rules import KEY_VARIABLES, SECRET_VARIABLE, Finding, RulesError
from shoal.config.schema import Config
from shoal.config.shape import shape_of

MAX_FILE_SIZE = 1024**2

# Sections whose keys are the user's own. A key without a value is an error there; elsewhere it means "not given".
_FREE_FORM = frozenset({"args", "env"})
# What stands in for required settings that are missing or wrong while the rest of the file is still checked.
_STAND_INS: dict[str | int, Any] = {
    "nodes": [{"host": "missing.invalid"}],
    "host": "missing.invalid",
    "url": "http://missing.invalid",
}
_MAX_REPAIRS = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what is known of the file it came from.

    Attributes:
        path: the file.
        config: the configuration.
        provenance: where each setting came from.
    """

    path: Path
    config: Config
    provenance: Provenance

    def where(self, *path: str | int) -> str:
        """Return ``FILE:LINE`` of a setting, or of the nearest thing around it that the file has."""
        return f"{self.path}:{self.provenance.document.place(path).line}"

    def error(self, message: str, *path: str | int) -> ConfigError:
        """Return an error about the setting at `path`, for what can only be found out later."""
        return ConfigError([self.provenance.document.problem(path, message)])

    def settings(self) -> tuple[Setting, ...]:
        """Return every setting with its resolved value and where that came from. Secrets are masked."""
        return settings(self.config, self.provenance)

    def serving_problems(self) -> tuple[Problem, ...]:
        """Return what keeps this cluster from starting though the file is valid: a missing secret, bad API keys."""
        document = self.provenance.document
        found = [_problem(finding, document) for finding in rules.serving_findings(self.config)]
        keys = self.config.gateway.keys.file
        if keys is not None:
            try:
                read_keys(keys)
            except ConfigError as error:
                found += error.problems
        return tuple(found)

    def require_servable(self) -> None:
        """Raise `ConfigError` if this cluster may not be started as it is."""
        problems = self.serving_problems()
        if problems:
            raise ConfigError(problems)


def load(path: Path, env: Mapping[str, str] = os.environ) -> Loaded:
    """Read the configuration in the file `path`.

    Args:
        path: a YAML file.
        env: environment for ``${NAME}`` in values, ``SHOAL_SECRET``, ``SHOAL_BROKER_PASSWORD``,
            ``HOME`` and ``XDG_STATE_HOME``.

    Raises:
        ConfigError: it cannot be read, or is wrong; all problems are told at once.
    """
    path, file = Path(path), str(path)
    text = read_text(path, file)
    document = parse(text, file, env)
    if document.data is None and not document.problems:
        raise ConfigError([Problem(file, "the file is empty; it needs at least `nodes` and `model`", 1, 1)])
    if not isinstance(document.data, dict):
        what = "the file must be a mapping with at least the keys `nodes` and `model`"
        raise ConfigError(
            document.problems or [Problem(file, f"this is {show_value(document.data)}; {what}", 1, 1)]
        )
    data = without_empty(document.data)
    from_environment = _add_secret(data, env) | _add_keys(data, env) | _add_password(data, env)
    config = _validate(data, document, Surroundings(path.absolute().parent, env))
    return Loaded(path, config, Provenance(document, env, from_environment))


def read_text(path: Path, file: str) -> str:
    """Return the text of a file; raise `ConfigError` if it is none that can be a configuration."""
    try:
        if not path.exists():
            raise ConfigError([Problem(file, "there is no such file")])
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise ConfigError([Problem(file, f"this is {kind}, not a configuration file")])
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ConfigError([Problem(file, "this is larger than 1 MiB; is it really the configuration?")])
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(file, f"the file cannot be read: {reason}")]) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(content, file, error) from None


def without_empty(data: Any) -> Any:
    """Return a copy without the keys that have no value: they mean the same as keys that are not there."""
    if isinstance(data, list):
        return [without_empty(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        key: copy.deepcopy(value) if key in _FREE_FORM else without_empty(value)
        for key, value in data.items()
        if value is not None and value != ""
    }


def _add_secret(data: dict[str, Any], env: Mapping[str, str]) -> dict[SettingPath, str]:
    """Take the secret from the environment if the file has none, so that a file needs no secret in it."""
    secret, cluster = env.get(SECRET_VARIABLE), data.get("cluster", {})
    if not secret or not isinstance(cluster, dict) or "secret" in cluster:
        return {}
    data["cluster"] = cluster | {"secret": secret}
    return {("cluster", "secret"): SECRET_VARIABLE}


def _add_keys(data: dict[str, Any], env: Mapping[str, str]) -> dict[SettingPath, str]:
    """Take API keys from the environment where the file has none."""
    taken: dict[SettingPath, str] = {}
    for setting, variable in KEY_VARIABLES.items():
        given = [key.strip() for key in env.get(variable, "").split(",") if key.strip()]
        gateway = data.get("gateway", {})
        keys = gateway.get("keys", {}) if isinstance(gateway, dict) else None
        if given and isinstance(keys, dict) and setting not in keys:
            data["gateway"] = gateway | {"keys": keys | {setting: given}}
            taken["gateway", "keys", setting] = variable
    return taken


def _add_password(data: dict[str, Any], env: Mapping[str, str]) -> dict[SettingPath, str]:
    """Take the broker's password from the environment where the file has none."""
    password, communication = env.get(PASSWORD_VARIABLE), data.get("communication", {})
    broker = communication.get("broker") if isinstance(communication, dict) else None
    if not password or not isinstance(broker, dict) or "user" not in broker or "password" in broker:
        return {}
    data["communication"] = communication | {"broker": broker | {"password": password}}
    return {("communication", "broker", "password"): PASSWORD_VARIABLE}


def _validate(data: dict[str, Any], document: Document, around: Surroundings) -> Config:
    """Return the configuration that `data` is, or raise with all that is wrong with it.

    What is wrong is taken out or replaced and the rest validated again, until nothing but rules between
    settings are broken: so these are told together with wrong values elsewhere.
    """
    problems = list(document.problems)
    broken = set(document.broken)
    for _ in range(_MAX_REPAIRS):
        try:
            config = Config.model_validate(data, context=around)
        except ValidationError as error:
            found, new, repaired = [], set[SettingPath](), copy.deepcopy(data)
            for detail in error.errors(include_url=False):
                cause = detail.get("ctx", {}).get("error")
                if isinstance(cause, RulesError):
                    raise ConfigError(problems + _told(cause.findings, broken, document)) from None
                path: SettingPath = tuple(step for step in detail["loc"] if step != "[key]")
                if _is_consequence(detail, data):
                    continue
                if not _touches(path, broken):
                    found.append(problem_of(detail, data, document))
                new.add(path)
                _repair(repaired, path, missing=detail["type"] == "missing")
            problems += found
            broken |= new
            data = repaired
        else:
            if problems:
                raise ConfigError(problems)
            return config
    raise ConfigError(problems)


def _told(findings: Iterable[Finding], broken: set[SettingPath], document: Document) -> list[Problem]:
    return [
        _problem(finding, document)
        for finding in findings
        if not any(_is_within(path, broken) for path in finding.paths)
        and not any(_touches(path, broken) for path in finding.reads)
    ]


def _problem(finding: Finding, document: Document) -> Problem:
    given = next((path for path in finding.paths if path in document.places), finding.paths[0])
    return document.problem(given, finding.message)


def _is_within(path: SettingPath, others: Iterable[SettingPath]) -> bool:
    """Return whether `path` is one of `others`, or inside one."""
    return any(path[: len(other)] == other for other in others)


def _touches(path: SettingPath, others: Iterable[SettingPath]) -> bool:
    """Return whether `path` is one of `others`, or inside or around one."""
    return any(path[: len(other)] == other[: len(path)] for other in others)


def _is_consequence(detail: ErrorDetails, data: Any) -> bool:
    """Return whether pydantic counts a list as too short only because its items are wrong."""
    value = value_at(data, detail["loc"])
    return detail["type"] == "too_short" and isinstance(value, list) and bool(value)


def _repair(data: Any, path: SettingPath, *, missing: bool) -> None:
    """Take the value at `path` out of `data`, or put a stand-in there. Lists keep their length."""
    shape = shape_of(path)
    if path and isinstance(path[-1], int) and shape is not None and shape.section is not None:
        value_at(data, path[:-1])[path[-1]] = {}
        return
    while path and not isinstance(value_at(data, path[:-1]), dict):  # out of lists: they go as a whole
        path = path[:-1]
    if not path:
        return
    mapping, key = value_at(data, path[:-1]), path[-1]
    if missing and key in _STAND_INS:
        mapping[key] = copy.deepcopy(_STAND_INS[key])
    else:
        mapping.pop(key, None)
