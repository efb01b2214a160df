"""Reads what is known of the models of a configuration, on this machine's disks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from shoal.config.schema import Config, Model
from shoal.models.errors import ModelError
from shoal.models.profile import Profile, find_model, read_profile
from shoal.node.engine_options import engine_options
from shoal.node.sizing import Known
from shoal.node.specs import weights_size


def hub_cache(env: Mapping[str, str] = os.environ) -> Path:
    """Return where Hugging Face's libraries keep downloaded models, which is where vLLM looks for a hub id."""
    if path := env.get("HF_HUB_CACHE"):
        return Path(path).expanduser()
    home = env.get("HF_HOME") or str(Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def profile_of(model: Model, env: Mapping[str, str] = os.environ, place: str | None = None) -> Profile:
    """Return the profile of a model of the configuration.

    Args:
        model: one with a path.
        env: environment the engines start in; the model's own variables go before.
        place: its directory where it is not at its own `path`.

    Raises:
        ModelError: its files are not on this machine, are damaged, or do not say enough.
    """
    directory = find_model(place or str(model.path), hub_cache({**env, **model.env}))
    return read_profile(directory, engine_options(model).dtype)


def known_models(
    config: Config, env: Mapping[str, str] = os.environ, places: Mapping[str, str] | None = None
) -> dict[str, Known]:
    """Return what is known of each model that vLLM serves, by name; nothing of those that cannot be read.

    For a start, where vLLM will tell what is wrong with a model's files. GGUF files and old ``*.bin`` checkpoints have
    a size at least.

    Args:
        config: the configuration.
        env: environment the engines start in.
        places: directories of models where they are not at their own `path`, by the model's name.
    """
    known: dict[str, Known] = {}
    for model in config.models:
        if model.engine != "vllm" or model.path is None:
            continue
        place = (places or {}).get(model.name, str(model.path))
        try:
            known[model.name] = profile_of(model, env, place)
        except ModelError:
            with contextlib.suppress(OSError):
                if Path(model.path).is_absolute() and (size := weights_size(Path(model.path))):
                    known[model.name] = size
    return known
