"""From a placement to all it takes to start the engine. Reads the configuration, touches nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from shoal.cluster.group_types import Place
from shoal.cluster.view import full_id
from shoal.config import Config
from shoal.engine.command import cli_args, option
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec, Tls
from shoal.engine.versions import ray_version, vllm_version
from shoal.node.engine_options import engine_options
from shoal.node.errors import StartError
from shoal.node.parts import PlannedPart
from shoal.node.placement import Placement
from shoal.node.units import gb


def engine_spec(
    placement: Placement, config: Config, listen: str, tls: Tls | None = None, *, path: str | None = None
) -> EngineSpec:
    """Return the spec of a placed engine, its port still open (0).

    Args:
        placement: the engine, its model and its GPUs.
        config: the configuration.
        listen: numeric address the engine listens on.
        tls: how it speaks TLS, None if it does not.
        path: the model's directory where it is not its own `path`.
    """
    model = placement.model
    assert model.engine != "external"
    args = model.command or () if model.engine == "command" else cli_args(model.args)
    return EngineSpec(
        id=placement.id,
        model=model.name,
        kind=model.engine,
        model_path=path or str(model.path or ""),
        served_name=model.name,
        args=(*_parallel(placement), *args),
        env={**_ray_token(placement, config), **model.env},
        gpus=placement.gpus,
        host=listen,
        python=str(config.engines.python or sys.executable),
        tls=tls,
        health=model.health or "/health",
    )


def _ray_token(placement: Placement, config: Config) -> dict[str, str]:
    """Return the variable by which only this cluster's nodes may join the engine's Ray, which runs what it is told."""
    secret = config.cluster.secret
    if placement.split is None or placement.model.executor != "ray" or secret is None:
        return {}
    what = f"ray {full_id(placement.nodes[0], placement.id)}"
    return {"RAY_AUTH_TOKEN": hmac.digest(secret.encode(), what.encode(), "sha256").hex()}


def planned_part(placement: Placement, spec: EngineSpec, gpus: Sequence[Gpu]) -> PlannedPart:
    """Return the part of an engine across nodes that a placement is.

    Args:
        placement: one with nodes.
        spec: how its engine is started.
        gpus: of this machine.

    Raises:
        StartError: Ray is to start it, and cannot.
    """
    assert placement.split is not None
    mine = [gpu for gpu in gpus if gpu.index in placement.gpus]
    arguments = repr((spec.model_path, spec.args)).encode()
    traits = {
        "the split": str(placement.split),
        "the model's arguments": hashlib.blake2b(arguments, digest_size=4).hexdigest(),
        "the hardware": f"{len(mine)} x {mine[0].name} ({gb(mine[0].total or 0)})" if mine else "no GPUs",
    }
    if spec.kind == "vllm":
        traits["vLLM"] = vllm_version(spec.python)
    executor = placement.model.executor
    if executor == "ray":
        traits["Ray"] = _ray(placement, spec)
    place = Place(
        engine=placement.id,
        group=full_id(placement.nodes[0], placement.id),
        model=spec.model,
        nodes=placement.nodes,
        rank=placement.rank,
        traits=traits,
    )
    return PlannedPart(spec=spec, place=place, data=placement.split.data > 1, executor=executor)


def _ray(placement: Placement, spec: EngineSpec) -> str:
    """Return the version of Ray that an engine is to be started with.

    Raises:
        StartError: there is none, or vLLM would refuse it.
    """
    assert placement.split is not None
    if spec.kind == "vllm" and not spec.gpus:
        raise StartError(
            f"model {spec.model}: vLLM refuses Ray on CPUs (`current platform cpu does not support ray`). "
            "Set `executor: mp`."
        )
    if placement.split.data > 1:
        raise StartError(
            f"model {spec.model}: data parallel ranks are spread by vLLM itself. Set `executor: mp`."
        )
    python = spec.python if spec.kind == "vllm" else sys.executable
    version = ray_version(python)
    if version == "none":
        raise StartError(
            f"model {spec.model}: `executor: ray` needs Ray beside vLLM ({python}). Install it there "
            "(`pip install 'shoal[ray]'` or `pip install ray`), or set `executor: mp`."
        )
    return version


def _parallel(placement: Placement) -> tuple[str, ...]:
    """Return the arguments that spread an engine over its GPUs and nodes, unless the user's own do."""
    if placement.model.engine != "vllm" and placement.split is None:
        return ()
    options, words = engine_options(placement.model), cli_args(placement.model.args)
    if placement.split is not None:
        tensor, stages = placement.split.tensor, placement.split.stages
    else:
        tensor, stages = options.split(len(placement.gpus))
    more: list[str] = []
    if tensor > 1 and option(words, "--tensor-parallel-size", "-tp") is None:
        more += ["--tensor-parallel-size", str(tensor)]
    if stages > 1 and option(words, "--pipeline-parallel-size", "-pp") is None:
        more += ["--pipeline-parallel-size", str(stages)]
    return tuple(more)


def require_startable(specs: Iterable[EngineSpec], *, files_may_come: bool = False) -> None:
    """Refuse what cannot work, before an engine has tried for half a minute and failed.

    Args:
        specs: engines to be started.
        files_may_come: a model's directory may be missing, other nodes may have it to give.

    Raises:
        StartError: a model's directory is missing, or vLLM or a command's program is not where it should be.
    """
    for spec in specs:
        if spec.kind == "sim":
            continue
        absolute = Path(spec.model_path).is_absolute()
        if absolute and not files_may_come and not Path(spec.model_path).exists():
            raise StartError(
                f"model {spec.model}: {spec.model_path} does not exist on this machine. Copy the model there, or "
                "correct `path`."
            )
        if spec.kind == "command":
            _require_program(spec)
        elif spec.python == sys.executable and find_spec("vllm") is None:
            raise StartError(
                f"vLLM is not installed beside Shoal ({sys.executable}). Install it there (`make setup` in a "
                "checkout), or name the interpreter that has it as `engines.python`."
            )


def _require_program(spec: EngineSpec) -> None:
    path = spec.env.get("PATH", os.environ.get("PATH"))
    if shutil.which(spec.args[0], path=path) is None:
        raise StartError(
            f"model {spec.model}: there is no program {spec.args[0]} on this machine (it is looked for in PATH, unless "
            "it has a / in it). Install it, or correct `command`."
        )


def weights_size(path: Path) -> int | None:
    """Return the bytes of a model's weights in a directory, None when there are none to see (a hub id)."""
    for pattern in ("*.safetensors", "*.bin", "*.gguf"):
        sizes = [f.stat().st_size for f in path.glob(pattern)]
        if sizes:
            return sum(sizes)
    return None
