"""What a node tells the others of itself during a check."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil
import xxhash

from shoal.config import Config, Node
from shoal.engine.gpu import driver_versions, list_gpus
from shoal.models.errors import ModelError
from shoal.models.profile import find_model
from shoal.node.exposing import versions
from shoal.node.known import hub_cache

_BLOCK = 8 * 1024 * 1024  # bytes read at once


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A node and its machine.

    Attributes:
        node: its name.
        role: its role.
        config_hash: of what all nodes must agree on.
        versions: of Shoal, vLLM, PyTorch and Python, and of NVIDIA's ``driver`` and ``cuda``; "" for what is not there.
        gpus: names of its GPUs.
        memory: bytes of the machine.
        engine_port: a port of the range for engines that it listens on during the check; 0 for none.
    """

    node: str
    role: str
    config_hash: str
    versions: dict[str, str] = {}
    gpus: tuple[str, ...] = ()
    memory: int = 0
    engine_port: int = 0


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a model on one node.

    Attributes:
        name: of the model in the configuration.
        place: directory they are in, "" if they are not there.
        problem: why they cannot be compared, "" if they can.
        files: path in the directory -> (bytes, XXH3-128 of the content; "" if it was not asked for).
    """

    name: str
    place: str = ""
    problem: str = ""
    files: dict[str, tuple[int, str]] = {}


def facts_of(config: Config, node: Node) -> Facts:
    """Return what there is to tell of this node, but for its port for engines. Takes up to seconds (NVML)."""
    return Facts(
        node=node.name,
        role=node.role,
        config_hash=config.agreed_hash(),
        versions=versions() | driver_versions(),
        gpus=tuple(gpu.name for gpu in list_gpus()),
        memory=psutil.virtual_memory().total,
    )


def models_of(
    config: Config,
    node: Node,
    *,
    hashed: bool = True,
    env: Mapping[str, str] = os.environ,
    on_file: Callable[[str], None] = lambda _: None,
) -> tuple[ModelFiles, ...]:
    """Return the files of each model that vLLM serves on a node. Reads all of them, so it takes its time.

    Args:
        config: the configuration.
        node: this node.
        hashed: read their content, not only their sizes.
        env: environment the engines start in.
        on_file: called with each file's path before it is read.
    """
    needed = {m.name for models in config.duties_of(node).values() for m in models}
    found = []
    for model in config.models:
        if model.engine != "vllm" or model.name not in needed or model.path is None:
            continue
        try:
            place = find_model(str(model.path), hub_cache({**env, **model.env}))
            files = _files(place, hashed, on_file)
        except (ModelError, OSError) as error:
            found.append(ModelFiles(name=model.name, problem=str(error)))
            continue
        found.append(ModelFiles(name=model.name, place=str(place), files=files))
    return tuple(found)


def _files(place: Path, hashed: bool, on_file: Callable[[str], None]) -> dict[str, tuple[int, str]]:
    files = {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = str(path.relative_to(place))
        if any(part.startswith(".") for part in path.relative_to(place).parts):
            continue  # what tools leave: .git, .cache
        on_file(str(path))
        files[name] = (path.stat().st_size, _hash(path) if hashed else "")
    return files


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())
