"""How an engine that spans nodes is divided: over how many GPUs each layer, into how many stages. Pure.

Tensor parallel inside a node, pipeline parallel across nodes, unless the file says otherwise: each layer's results are
exchanged several times for each token, a stage's only once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.config.schema import Config, Model
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.engine_options import EngineOptions, engine_options
from shoal.node.errors import DoesNotFitError, StartError
from shoal.node.fit import gpu_fit
from shoal.node.parallel import alike, indices, kinds, split_problem, tensor_sizes
from shoal.node.units import gb


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine across nodes is divided.

    Attributes:
        nodes: how many it spans.
        tensor: tensor parallel size.
        stages: pipeline parallel size.
        data: data parallel size.
    """

    nodes: int
    tensor: int
    stages: int
    data: int = 1

    @property
    def local(self) -> int:
        """GPUs (without any, processes) on each node."""
        return self.tensor * self.stages * self.data // self.nodes

    def __str__(self) -> str:
        sizes = [f"tensor parallel {self.tensor}", f"pipeline parallel {self.stages}"]
        return ", ".join([*sizes, *([f"data parallel {self.data}"] if self.data > 1 else [])])


def spanned(config: Config, model: Model, node: str) -> tuple[tuple[str, ...], int] | None:
    """Return the nodes that share an engine of `model` with `node`, by rank, and its rank; None if it has no part.

    The model's nodes in the order of the file, as many at a time as an engine spans. What is left over runs none.
    """
    names = [n.name for n in config.nodes_of(model)]
    span = config.span_of(model)
    if node not in names:
        return None
    first = names.index(node) // span * span
    nodes = tuple(names[first : first + span])
    return (nodes, names.index(node) - first) if len(nodes) == span else None


def split_of(model: Model, have: int, span: int, profile: Profile | None) -> Split:
    """Return how each engine of a model is divided.

    Args:
        model: the model.
        have: GPUs that an engine may have on each node; 0 without GPUs, where it has one process unless told.
        span: nodes of each engine.
        profile: what is known of the model.

    Raises:
        StartError: it cannot be divided so, with what works.
    """
    options = engine_options(model)
    split = _split(options, max(1, have), span, profile)
    world = split.tensor * split.stages * split.data
    if world % span or world < span:
        raise StartError(
            f"model {model.name}: {split} make {world} ranks, which do not divide over {span} nodes. Nearest that "
            f"works: `tensor_parallel: {max(1, have)}` with `pipeline_parallel: {span}`."
        )
    groups = split.data // max(1, split.local // (split.tensor * split.stages)) if split.data > 1 else 1
    if span % groups:
        raise StartError(
            f"model {model.name}: {split.data} data parallel ranks of {split.tensor * split.stages} GPUs do not divide "
            f"over {span} nodes. Nearest that works: `args: {{data_parallel_size: {span}}}`."
        )
    if have and split.local > have:
        raise StartError(
            f"model {model.name}: {split} over {span} nodes take {split.local} GPUs on each, an engine has {have} "
            f"here. Nearest that works: `tensor_parallel: {have}` with `pipeline_parallel: {span}`, or "
            f"`nodes_per_engine: {-(-world // have)}`."
        )
    problem = split_problem(profile.architecture, split.tensor, split.stages) if profile is not None else None
    if profile is not None and problem is not None:
        sizes = tensor_sizes(profile.architecture, max(1, have))
        raise StartError(
            f"model {model.name}: an engine over {span} nodes would have {split}, and {problem}. Nearest that works: "
            f"`tensor_parallel: {max(sizes)}` with `pipeline_parallel: {min(span, profile.architecture.layers)}`."
        )
    return split


def _split(options: EngineOptions, have: int, span: int, profile: Profile | None) -> Split:
    tensor, stages, data = options.tensor, options.stages, options.data
    if data > 1:  # data parallel ranks go across nodes, what each of them is divided into stays inside
        per_rank = max(1, span * have // data)
        stages = stages or 1
        return Split(nodes=span, tensor=tensor or max(1, per_rank // stages), stages=stages, data=data)
    if tensor is None and stages is None:
        sizes = tensor_sizes(profile.architecture, have) if profile is not None else (have,)
        return Split(nodes=span, tensor=max(sizes, default=1), stages=span)
    if stages is None:
        assert tensor is not None
        # One that fits into a node is one for each stage; a larger one spans the nodes itself.
        return Split(nodes=span, tensor=tensor, stages=span if tensor <= have else 1)
    return Split(nodes=span, tensor=tensor or max(1, span * have // stages), stages=stages)


def require_fitting(model: Model, split: Split, gpus: Sequence[Gpu], profile: Profile | None) -> None:
    """Refuse a part of an engine that certainly does not work on its GPUs of a node.

    Raises:
        StartError: they are unequal, or the weights alone are larger.
    """
    if not gpus:
        return
    if not alike(gpus):
        told = ", ".join(f"{indices(g)} ({g[0].name}) with {gb(g[0].total or 0)}" for g in kinds(gpus))
        best = max(kinds(gpus), key=len)
        raise StartError(
            f"model {model.name}: an engine would be split over unequal GPUs, {told}. Nearest that works: "
            f"`gpus: [{', '.join(str(g.index) for g in best)}]` for the node."
        )
    options = engine_options(model)
    if profile is None or options.opaque:
        return
    fit = gpu_fit(
        profile,
        msgspec.structs.replace(options, tensor=split.tensor, stages=split.stages),
        gpus[: split.local],
    )
    if fit is not None and fit.weights > fit.total:
        raise DoesNotFitError(
            f"model {model.name} needs {gb(profile.weights.total)} for its weights alone; over {split.nodes} nodes "
            f"({split}) that is {gb(fit.weights)} on each GPU, {gpus[0].name} has {gb(fit.total)}. `shoal plan` tells "
            "what would fit.",
            model.name,
            tuple(g.index for g in gpus[: split.local]),
        )
