"""Reads what a model is from its directory: its configuration and the headers of its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shoal.models.architecture import Architecture, parse
from shoal.models.checkpoint import weights_of
from shoal.models.errors import ModelError
from shoal.models.parameters import computed
from shoal.models.safetensors import files, tensors
from shoal.models.weights import Weights

_LONGEST = 10**9  # tokenizers without a limit name an absurd one


class Profile(msgspec.Struct, frozen=True):
    """A model as far as placing it needs.

    Attributes:
        architecture: its shape.
        weights: their sizes.
    """

    architecture: Architecture
    weights: Weights


def read_profile(directory: Path, asked_dtype: str | None = None) -> Profile:
    """Read the model in a directory: ``config.json``, and the headers of its ``*.safetensors`` where there are some.

    Without them the sizes are computed from the configuration.

    Args:
        directory: the model's.
        asked_dtype: the engine's ``--dtype``, None for auto.

    Raises:
        ModelError: the files are not there, are damaged, or do not say enough; the message names the file.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory on this machine")
    config = _json(directory / "config.json", directory)
    try:
        arch = parse(config, _tokenizer_limit(directory))
        checkpoint = files(directory)
        if checkpoint:
            found = (tensor for file in checkpoint for tensor in tensors(file))
            return Profile(arch, weights_of(found, arch, asked_dtype))
        return Profile(arch, computed(config, arch, asked_dtype))
    except ModelError as error:
        text = str(error)
        raise ModelError(text if str(directory) in text else f"{directory}: {text}") from None


def find_model(path: str, hub_cache: Path | None) -> Path:
    """Return the directory of a model: the path itself, or where a hub's cache has the model of that id.

    Args:
        path: directory or hub id, ``org/name``.
        hub_cache: the Hugging Face cache (``$HF_HUB_CACHE``), None to look nowhere.

    Raises:
        ModelError: it is neither, with what to do.
    """
    directory = Path(path)
    if directory.is_absolute():
        if directory.is_dir():
            return directory
        raise ModelError(f"{path} does not exist on this machine")
    snapshots = hub_cache / f"models--{path.replace('/', '--')}" if hub_cache is not None else None
    if snapshots is not None:
        ref = snapshots / "refs" / "main"
        if ref.is_file() and (found := snapshots / "snapshots" / ref.read_text().strip()).is_dir():
            return found
        if found_any := sorted((snapshots / "snapshots").glob("*/config.json")):
            return found_any[-1].parent
    raise ModelError(f"{path} is the id of a model on a hub that is not in this machine's cache")


def _json(file: Path, directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{directory} has no config.json: is it a model's directory?") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} is JSON, but no object")
    return content


def _tokenizer_limit(directory: Path) -> int | None:
    try:
        content = json.loads((directory / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    limit = content.get("model_max_length") if isinstance(content, dict) else None
    return limit if isinstance(limit, int) and 0 < limit < _LONGEST else None
