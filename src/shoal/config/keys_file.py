"""Reads and edits files of API keys, as strictly as the configuration, with line and column of what is wrong."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from shoal.config.document import Document, not_utf8, parse
from shoal.config.errors import ConfigError, Problem, show_value
from shoal.config.keys import KeyEntry, KeysFile
from shoal.config.messages import problem_of

MAX_SIZE = 4 * 1024**2
_MAX_VALUES = 100_000  # in a file with as many keys as there may be
_HOW = "make it with `shoal keys new NAME`"


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Return the keys in a file.

    Raises:
        ConfigError: it cannot be read, or is wrong; all problems are told at once.
    """
    return keys_in(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of keys.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), f"there is no such file of API keys; {_HOW}")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(str(path), f"the file of API keys cannot be read: {reason}")]) from None
    if len(content) > MAX_SIZE:
        raise ConfigError([Problem(str(path), "this is larger than 4 MiB; is it really a file of API keys?")])
    return content


def keys_in(content: bytes, file: str) -> tuple[KeyEntry, ...]:
    """Return the keys that the content of a file says.

    Args:
        content: YAML or JSON.
        file: its name, for messages.

    Raises:
        ConfigError: it is wrong; all problems are told at once.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(content, file, error) from None
    document = parse(text, file, {}, _MAX_VALUES)
    problems = list(document.problems)
    data = document.data
    if not isinstance(data, dict):
        what = f"a file of API keys begins with `keys:`; {_HOW}"
        shown = "the file is empty" if data is None else f"this is {show_value(data)}"
        raise ConfigError(problems or [Problem(file, f"{shown}; {what}", 1, 1)])
    try:
        entries = KeysFile.model_validate(_without_empty(data)).keys
    except ValidationError as error:
        found = [problem_of(e, data, document, KeysFile) for e in error.errors(include_url=False)]
        raise ConfigError(problems + found) from None
    problems += _twice(entries, document)
    if problems:
        raise ConfigError(problems)
    return entries


def _without_empty(data: Any) -> Any:
    """Return a copy without the keys that have no value: they mean the same as keys that are not there."""
    if isinstance(data, list):
        return [_without_empty(item) for item in data]
    if isinstance(data, dict):
        return {key: _without_empty(value) for key, value in data.items() if value is not None}
    return data


def _twice(entries: tuple[KeyEntry, ...], document: Document) -> Iterator[Problem]:
    for what in ("name", "hash"):
        first: dict[str, int] = {}
        for i, entry in enumerate(entries):
            before = first.setdefault(getattr(entry, what), i)
            if before != i:
                yield document.problem(
                    ("keys", i, what),
                    f"keys[{i}] and keys[{before}] have the same {what}; each key needs one of its own",
                )


def add_key(path: Path, entry: dict[str, Any]) -> None:
    """Add a key to a file, which is made if there is none. Comments in it stay.

    Args:
        path: the file.
        entry: the fields of a `KeyEntry` as YAML has them.

    Raises:
        ConfigError: the file is wrong, or would be: it has the name already, say.
    """
    with _locked(path):
        content = read_bytes(path) if path.exists() else b""
        data = _load(content, str(path))
        if data.get("keys") is None:
            data["keys"] = []
        data["keys"].append(entry)
        _write(path, data, as_json=_is_json(content))


def remove_key(path: Path, name: str) -> bool:
    """Take a key out of a file; return whether it was there.

    Raises:
        ConfigError: the file is wrong.
    """
    with _locked(path):
        content = read_bytes(path)
        data = _load(content, str(path))
        entries = data.get("keys") or []
        at = next((i for i, entry in enumerate(entries) if entry["name"] == name), None)
        if at is None:
            return False
        del entries[at]
        _write(path, data, as_json=_is_json(content))
        return True


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _load(content: bytes, file: str) -> Any:
    if not content.strip():
        return {}
    keys_in(content, file)
    return _yaml().load(content)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others of these commands away: each rewrites the whole file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"its directory cannot be used: {error.strerror}")]) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _write(path: Path, data: Any, *, as_json: bool) -> None:
    """Replace the file in one step, after a check; nodes never see half of it. Only its owner may read a new one."""
    buffer = io.BytesIO()
    if as_json:
        buffer.write(json.dumps(data, indent=2).encode() + b"\n")
    else:
        _yaml().dump(data, buffer)
    keys_in(buffer.getvalue(), str(path))
    target = path.resolve()  # what a link points to, not the link
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"the file cannot be written: {error.strerror}")]) from None
