"""From a placement to all it takes to start the engine. Reads the configuration, touches nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from shoal.config import Config
from shoal.engine.command import cli_args
from shoal.engine.spec import EngineSpec, Tls
from shoal.node.engine_options import engine_options
from shoal.node.errors import StartError
from shoal.node.placement import Placement


def engine_spec(placement: Placement, config: Config, listen: str, tls: Tls | None = None) -> EngineSpec:
    """Return the spec of a placed engine, its port still open (0).

    Args:
        placement: the engine, its model and its GPUs.
        config: the configuration.
        listen: numeric address the engine listens on.
        tls: how it speaks TLS, None if it does not.
    """
    model = placement.model
    assert model.engine in ("vllm", "sim")
    args = cli_args(model.args)
    return EngineSpec(
        id=placement.id,
        model=model.name,
        kind=model.engine,
        model_path=str(model.path),
        served_name=model.name,
        args=(*_parallel(placement), *args),
        env=dict(model.env),
        gpus=placement.gpus,
        host=listen,
        python=str(config.engines.python or sys.executable),
        tls=tls,
    )


def _parallel(placement: Placement) -> tuple[str, ...]:
    """Return the argument that spreads an engine over its GPUs, unless the user said how."""
    options = engine_options(placement.model)
    tensor, _ = options.split(len(placement.gpus))
    chosen = options.tensor is not None or options.stages is not None
    if placement.model.engine != "vllm" or tensor < 2 or chosen:
        return ()
    return ("--tensor-parallel-size", str(tensor))


def require_startable(specs: Iterable[EngineSpec]) -> None:
    """Refuse what cannot work, before an engine has tried for half a minute and failed.

    Raises:
        StartError: a model's directory is missing, or vLLM is not installed where it should be.
    """
    for spec in specs:
        if spec.kind != "vllm":
            continue
        if Path(spec.model_path).is_absolute() and not Path(spec.model_path).exists():
            raise StartError(
                f"model {spec.model}: {spec.model_path} does not exist on this machine. Copy the model there, or "
                "correct `path`."
            )
        if spec.python == sys.executable and find_spec("vllm") is None:
            raise StartError(
                f"vLLM is not installed beside Shoal ({sys.executable}). Install it there (`make setup` in a "
                "checkout), or name the interpreter that has it as `engines.python`."
            )


def weights_size(path: Path) -> int | None:
    """Return the bytes of a model's weights in a directory, None when there are none to see (a hub id)."""
    for pattern in ("*.safetensors", "*.bin", "*.gguf"):
        sizes = [f.stat().st_size for f in path.glob(pattern)]
        if sizes:
            return sum(sizes)
    return None
