"""Configurations from YAML text."""

from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

from shoal.config import Config, load


def config(text: str, **env: str) -> Config:
    """Return the configuration that a file with this text gives."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "cluster.yaml"
        path.write_text(dedent(text))
        return load(path, env).config
