"""`shoal optimize quantize`: a model's weights in fewer bits."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.optimize.common import (
    Environment,
    Length,
    Model,
    Out,
    Python,
    Samples,
    Seed,
    Text,
    done,
    name_of,
)
from shoal.cli.progress import told
from shoal.engine.gpu import compute_capability, list_gpus
from shoal.optimize.make import Order, make
from shoal.optimize.schemes import Quantization, choose, not_served_here
from shoal.optimize.source import read_source


class SchemeName(StrEnum):
    """What `--scheme` takes."""

    auto = "auto"
    w8a8 = "w8a8"
    w4a16 = "w4a16"
    fp8 = "fp8"


class Method(StrEnum):
    """What `--method` takes."""

    gptq = "gptq"
    rtn = "rtn"


def quantize(
    model: Model,
    output: Out,
    scheme: Annotated[
        SchemeName,
        typer.Option(
            help="w8a8: 8-bit weights and activations. w4a16: 4-bit weights. fp8: for GPUs from Ada and Hopper on. "
            "auto: fp8 there, else w8a8."
        ),
    ] = SchemeName.auto,
    method: Annotated[
        Method | None,
        typer.Option(
            help="gptq: rounds so that errors cancel out on text. rtn: to the nearest, in seconds. Default: gptq for "
            "w4a16, rtn for w8a8."
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            metavar="32|64|128",
            help="Of w4a16: weights that share a scale. Fewer are more exact and larger. Default: the most that "
            "divide the model's sizes; for models under about a billion parameters the fewest.",
        ),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Of w4a16: without zero points, or with one for each group, which is more exact and a little larger. "
            "Default: with, for models under about a billion parameters.",
        ),
    ] = None,
    text: Text = None,
    samples: Samples = 128,
    length: Length = 512,
    seed: Seed = 0,
    python: Python = None,
    environment: Environment = None,
) -> None:
    """Store a model's weights in fewer bits, in the form that vLLM loads (compressed-tensors)."""
    with told() as tell:
        source = read_source(model)
        gpus = list_gpus()
        capability = compute_capability(g.index for g in gpus)
        chosen = choose(scheme, source.config, capability, group=group_size, symmetric=symmetric)
        if remark := not_served_here(chosen, gpus=bool(gpus), cpuinfo=_cpuinfo()):
            typer.echo(f"shoal optimize: {remark}", err=True)
        given = {
            "model": str(source.path),
            "scheme": chosen.scheme,
            "group_size": chosen.group_size,
            "symmetric": chosen.symmetric,
            "method": _method(method, chosen),
            "text": name_of(text),
            "samples": samples,
            "length": length,
            "seed": seed,
        }
        title = f"Quantised to {chosen.scheme}" + (
            f" in groups of {chosen.group_size}" if chosen.group_size else ""
        )
        make(Order("quantize", title, source, output, given, python, environment), tell)
    done(output, title)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _method(method: Method | None, chosen: Quantization) -> str:
    if not chosen.calibrated:
        return Method.rtn
    return method or (Method.gptq if chosen.scheme == "w4a16" else Method.rtn)
