"""Models that the configuration names by their id on a hub: where their files are on a node, and who downloads them.

Where nodes give files to each other, one of them downloads and the others copy from it. The files are then in the
node's state directory, and vLLM is started with that. What is in Hugging Face's cache already is used from there.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from shoal.cluster.view import MemberState, View
from shoal.config import Config
from shoal.config.schema import Model
from shoal.engine.command import cli_args, option
from shoal.models import hub_download
from shoal.models.errors import ModelError
from shoal.models.profile import find_model
from shoal.node.known import hub_cache

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
UNREACHABLE = "-"
"""What a node reports in place of a digest where it could not reach the hub: the next node tries."""


def is_hub_id(model: Model) -> bool:
    """Return whether Shoal looks after the files of a model that is named by its id on a hub.

    Where the engine is told a revision or a way to load, or the id has a part of its own (``org/name:Q4_K_M``), vLLM
    knows better what to get, and gets it by itself.
    """
    path = str(model.path or "")
    if model.engine != "vllm" or not _ID.fullmatch(path):
        return False
    args = cli_args(model.args)
    return all(option(args, name) is None for name in ("--revision", "--load-format"))


def own_copy(model: Model, state_dir: Path) -> Path:
    """Return where Shoal puts the files of a model that is named by its id.

    Args:
        model: the model.
        state_dir: the node's directory.
    """
    return state_dir / "models" / str(model.path).replace("/", "--")


def files_of(model: Model, state_dir: Path, env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of a model's files on this machine; where they are to be, if they are not there.

    Args:
        model: one with a path.
        state_dir: the node's directory.
        env: the environment engines start in.
    """
    if not is_hub_id(model):
        return Path(str(model.path))
    own = own_copy(model, state_dir)
    if own.is_dir():
        return own
    try:
        return find_model(str(model.path), hub_cache({**env, **model.env}))
    except ModelError:
        return own


def served_path(model: Model, config: Config, state_dir: Path) -> str:
    """Return what an engine is started with: the id or path as the file has it, or where Shoal has put the files."""
    own = own_copy(model, state_dir)
    return str(own) if config.fetches_files and is_hub_id(model) and own.is_dir() else str(model.path)


def first_in_turn(config: Config, model: Model, view: View, *, waited: bool) -> str | None:
    """Return the node that is to download a model: the first that runs it, lives and has not failed to.

    A node that has failed goes on trying once all have: then each sees itself as the first.

    Args:
        config: the configuration.
        model: the model.
        view: members.
        waited: nodes that were never heard of had time enough to say something.
    """
    runs = {node.name for node in config.nodes_of(model)}
    for member in view.members:  # in order of their names
        if member.state is MemberState.UNKNOWN and member.name in runs and not waited:
            return member.name
        if member.state is MemberState.ALIVE and member.name in runs:
            failed = member.report is not None and member.report.files.get(model.name) == UNREACHABLE
            if member.is_self or not failed:
                return member.name
    return None


async def download(model: Model, directory: Path, python: str | None) -> None:
    """Download a model into a directory, which is there only when it is complete.

    Args:
        model: one that is named by its id.
        directory: where its files are to be.
        python: interpreter that has vLLM, None for this one.

    Raises:
        ModelError: it could not be downloaded.
    """
    env = {**os.environ, **model.env}
    scope = env.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true")
    partial = directory.parent / f".{directory.name}.download"
    partial.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        python or sys.executable,
        hub_download.__file__,
        "modelscope" if scope else "huggingface",
        str(model.path),
        str(partial),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=env,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {process.returncode}"
        raise ModelError(f"{model.path} cannot be downloaded here: {reason}")
    partial.replace(directory)


def downloaded(directory: Path) -> int:
    """Return the bytes that a download has brought so far."""
    partial = directory.parent / f".{directory.name}.download"
    try:
        return sum(f.stat().st_blocks * 512 for f in partial.rglob("*") if f.is_file())
    except OSError:
        return 0
