"""Loads configurations given as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shoal.config import Config, ConfigError, Loaded, load

Load = Callable[..., Loaded]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Return a function that writes a text to ``cluster.yaml`` and loads it, in an environment of its own."""

    def load_it(text: str, **env: str) -> Loaded:
        path = tmp_path / "cluster.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load(path, {"HOME": "/home/someone", **env})

    return load_it


@pytest.fixture
def config_of(load_text: Load) -> Callable[..., Config]:
    """Return a function that returns the configuration in a text."""
    return lambda text, **env: load_text(text, **env).config


@pytest.fixture
def told(load_text: Load) -> Callable[..., list[str]]:
    """Return a function that returns what is wrong with a text: lines ``LINE:COLUMN: MESSAGE``, [] if nothing."""

    def tell(text: str, **env: str) -> list[str]:
        try:
            load_text(text, **env)
        except ConfigError as error:
            return [f"{p.line}:{p.column}: {p.message}" for p in error.problems]
        return []

    return tell


@pytest.fixture
def model_with(told: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return a function that returns what is wrong with a loopback node and a model of these settings."""

    def tell(settings: Mapping[str, str] | str) -> list[str]:
        return told(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {settings}\n")

    return tell
