"""What a job starts from: a model's directory, looked at before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from shoal.models.errors import ModelError
from shoal.models.profile import Profile, read_profile
from shoal.optimize.errors import OptimizeError

PRUNABLE = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds (`model_type`) whose layers, MLP channels and heads are known to lie where pruning looks for them."""

_GB = 1e9


@dataclass(frozen=True)
class Source:
    """A model as it lies in its directory.

    Attributes:
        path: the directory.
        config: its config.json.
        profile: shape and sizes.
    """

    path: Path
    config: Mapping[str, Any]
    profile: Profile

    @property
    def kind(self) -> str:
        """Its ``model_type``."""
        return self.profile.architecture.model_type

    @property
    def parameters(self) -> int:
        """How many it has."""
        return self.profile.weights.parameters


def read_source(path: Path) -> Source:
    """Return the model in the directory `path`.

    Raises:
        OptimizeError: there is none, or it is one that cannot be worked on.
    """
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise OptimizeError(
            f"{path} is no directory; name the directory of a model, with its config.json in it"
        )
    if not (path / "config.json").is_file():
        raise OptimizeError(f"{path} holds no config.json, so it is no model's directory")
    if not list(path.glob("*.safetensors")):
        raise OptimizeError(f"{path} holds no *.safetensors; convert the weights to that format first")
    try:
        config = json.loads((path / "config.json").read_text())
        profile = read_profile(path)
    except (ModelError, OSError, ValueError) as error:
        raise OptimizeError(f"{path} cannot be used: {error}") from error
    if profile.architecture.quantization is not None:
        raise OptimizeError(
            f"{path} is quantised already ({profile.architecture.quantization.method}); start from the "
            "model it was made from"
        )
    if not profile.architecture.caches:
        raise OptimizeError(
            f"{path} is {profile.architecture.name}, which generates no text: that cannot be optimised"
        )
    return Source(path, config, profile)


def require_prunable(source: Source) -> None:
    """Refuse a model whose parts are not known.

    Raises:
        OptimizeError: it is one.
    """
    if source.kind not in PRUNABLE:
        raise OptimizeError(
            f"{source.path} is of the kind {source.kind}; its structure can be changed for {', '.join(PRUNABLE)} only "
            "(quantising works for others too)"
        )


def require_memory(what: str, need: float, available: int | None = None) -> None:
    """Refuse a job that does not fit into memory.

    Args:
        what: the job, as in "quantising".
        need: bytes, estimated.
        available: bytes that are free; by default asked of the machine.

    Raises:
        OptimizeError: it does not fit.
    """
    free = psutil.virtual_memory().available if available is None else available
    if need > free:
        raise OptimizeError(
            f"{what} it needs about {need / _GB:.1f} GB of memory, {free / _GB:.1f} GB are free; stop other "
            "programs, or use a machine with more"
        )


def weights_bytes(path: Path) -> int:
    """Return the bytes of the weights in a model's directory, quantised or not."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
