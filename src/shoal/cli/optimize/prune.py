"""`shoal optimize prune`: a model with less in it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

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
from shoal.optimize.errors import OptimizeError
from shoal.optimize.make import Order, make
from shoal.optimize.source import Source, read_source, require_prunable

_DENSE = (
    "vLLM has no kernels for sparse weights any more: it serves this model as if it were dense, as large and slow as "
    "before. This is for studying what a model can do without; `--by`, `--mlp` and `--heads` make it faster"
)


class SparsityMethod(StrEnum):
    """What `--method` takes."""

    sparsegpt = "sparsegpt"
    wanda = "wanda"


def prune(
    model: Model,
    output: Out,
    by: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.9, help="Share of the layers that goes. Default, if no more is said: 0.25."
        ),
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="How many layers go.")] = 0,
    mlp: Annotated[float, typer.Option(min=0, max=0.95, help="Share of the MLP channels that goes.")] = 0.0,
    heads: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of the attention heads that goes.")
    ] = 0.0,
    sparsity: Annotated[
        str | None,
        typer.Option(
            metavar="2:4|SHARE",
            help="In place of parts: set single weights to zero, two of every four or a share of all. A study only: "
            "vLLM serves the result no faster.",
        ),
    ] = None,
    method: Annotated[
        SparsityMethod,
        typer.Option(
            help="Of --sparsity. sparsegpt: the weights that stay make up for those that go. wanda: only chooses, in "
            "less time."
        ),
    ] = SparsityMethod.sparsegpt,
    text: Text = None,
    samples: Samples = 32,
    length: Length = 256,
    seed: Seed = 0,
    python: Python = None,
    environment: Environment = None,
) -> None:
    """Take layers, MLP channels or attention heads out of a model: what matters least on text goes first.

    What is left is an ordinary, smaller model. `shoal optimize distill` wins back some of what it forgot.
    """
    with told() as tell:
        source = read_source(model)
        about = {"text": name_of(text), "samples": samples, "length": length, "seed": seed}
        parts = by is not None or bool(layers or mlp or heads)
        if sparsity is not None:
            if parts:
                raise OptimizeError(
                    "--sparsity and parts that go (--by, --layers, --mlp, --heads) are two commands"
                )
            share, pattern = _sparsity(sparsity)
            given = {"model": str(source.path), "share": share, "pattern": pattern, "method": method.value}
            title = f"Sparse ({sparsity}, {method})"
            typer.echo(f"shoal optimize: {_DENSE}", err=True)
            order = Order("sparsify", title, source, output, given | about, python, environment)
        else:
            given = _structure(source, 0.25 if not parts else by, layers) | {"mlp": mlp, "heads": heads}
            order = Order("prune", "Pruned", source, output, given | about, python, environment)
        result = make(order, tell)
    first, last = result["perplexity"]
    if sparsity is not None:
        what = f"{100 * result['zeros']:.0f} % of the weights of linear layers are zero"
    else:
        before, after = result["parameters"]
        what = f"{before / 1e6:.0f} M parameters are {after / 1e6:.0f} M"
    done(output, f"{what}, perplexity {first:.2f} is {last:.2f}")


def _structure(source: Source, by: float | None, layers: int) -> dict[str, Any]:
    """Return how many layers go.

    Raises:
        OptimizeError: that is not possible.
    """
    require_prunable(source)
    have = source.profile.architecture.layers
    gone = layers or round(have * (by or 0.0))
    if gone >= have:
        raise OptimizeError(f"{source.path} has {have} layers, so {gone} cannot go; lower --layers")
    return {"model": str(source.path), "layers": gone}


def _sparsity(said: str) -> tuple[float, str]:
    """Return the share of weights that goes and the pattern, as llmcompressor has them.

    Raises:
        OptimizeError: it is neither `2:4` nor a share.
    """
    if said == "2:4":
        return 0.5, said
    try:
        share = float(said)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise OptimizeError(f"--sparsity {said}: write 2:4, or a share between 0 and 1 such as 0.5")
    return share, "0:0"
