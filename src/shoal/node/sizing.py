"""How many engines of one model run on some GPUs of a node, and on how many each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shoal.config.schema import Model
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.node.engine_options import EngineOptions
from shoal.node.errors import DoesNotFitError, StartError
from shoal.node.fit import gpu_fit
from shoal.node.parallel import alike, indices, kinds, nearest_split, split_problem, tensor_sizes
from shoal.node.units import gb

Known = Profile | int
"""What is known of a model: its profile, or only the bytes of its weights."""

Engines = list[tuple[tuple[int, ...], str]]
"""Of each engine: the indices of its GPUs, and why."""

# For models of which only the size of the files is known: what an engine needs beside its weights on a GPU.
_MEMORY_FACTOR = 1.3
_MEMORY_FIXED = 2 * 1024**3


def engines_of(model: Model, options: EngineOptions, gpus: Sequence[Gpu], known: Known | None) -> Engines:
    """Return the engines of a model on those GPUs of a node that are its own.

    Args:
        model: the model.
        options: what its arguments say.
        gpus: at least one.
        known: what is known of it.

    Raises:
        StartError: it cannot be split so, or its weights alone are larger; with what works.
    """
    profile = known if isinstance(known, Profile) and model.engine == "vllm" else None
    asked = model.gpus_per_engine or options.gpus
    if asked is None and model.engines_per_node is None and model.type == "auto":
        engines = _automatic(options, gpus, profile) if profile else _by_size(gpus, known)
    else:
        size, why = _as_told(model, asked, len(gpus))
        count = model.engines_per_node or len(gpus) // size
        engines = [(list(gpus[i * size : (i + 1) * size]), why) for i in range(count)]
    for mine, _ in engines:
        if model.engine == "vllm":
            _require_alike(model, mine, gpus)
        if profile is not None:
            _require_split(model, options, mine, len(gpus), profile)
            _require_weights(model, options, mine, profile)
    return [(tuple(gpu.index for gpu in mine), why) for mine, why in engines]


def _as_told(model: Model, asked: int | None, have: int) -> tuple[int, str]:
    """Return the GPUs of each engine where the file decides, and what in it does."""
    if asked:
        return asked, f"gpus_per_engine: {asked}" if model.gpus_per_engine else "as its args ask"
    if model.engines_per_node:
        return have // model.engines_per_node, f"engines_per_node: {model.engines_per_node}"
    if model.type in ("small", "medium"):
        return 1, f"type {model.type}: one engine per GPU"
    return have, f"type {model.type}: one engine over all GPUs"


def _automatic(options: EngineOptions, gpus: Sequence[Gpu], profile: Profile) -> list[tuple[list[Gpu], str]]:
    """Return engines on the fewest GPUs of one kind that hold the model with room for requests."""
    engines: list[tuple[list[Gpu], str]] = []
    for group in kinds(gpus):
        size = _fewest(options, group, profile)
        if size is None:
            continue
        why = (
            "auto: one GPU holds it"
            if size == 1
            else f"auto: {size} GPUs are the fewest that hold it with room for requests"
        )
        engines += [(list(group[i : i + size]), why) for i in range(0, len(group) - size + 1, size)]
    if engines:
        return engines
    group = kinds(gpus)[0]
    size = max(tensor_sizes(profile.architecture, len(group)))
    return [(list(group[:size]), "auto: all GPUs that it can be split over")]


def _fewest(options: EngineOptions, group: Sequence[Gpu], profile: Profile) -> int | None:
    """Return on how many GPUs of a kind an engine should run, None if all of them do not hold it.

    The fewest with a KV cache of some use; where there are none such, the most that are possible at all.
    """
    possible = []
    for size in tensor_sizes(profile.architecture, len(group)):
        fit = gpu_fit(profile, options, group[:size])
        if fit is None or options.opaque:
            return max(
                tensor_sizes(profile.architecture, len(group))
            )  # it cannot be told: as large as it goes
        if fit.roomy:
            return size
        if fit.verdict == "fits":
            possible.append(size)
    return max(possible, default=None)


def _by_size(gpus: Sequence[Gpu], known: Known | None) -> list[tuple[list[Gpu], str]]:
    """Return one engine per GPU if the smallest holds the files of the model, else one over all GPUs."""
    if isinstance(known, int):
        # A chip that shares the machine's memory tells none: vLLM will say whether the model fits.
        smallest = min((g.total for g in gpus if g.total is not None), default=math.inf)
        if known * _MEMORY_FACTOR + _MEMORY_FIXED <= smallest:
            return [([gpu], "auto: one GPU holds its files") for gpu in gpus]
        return [(list(gpus), "auto: one GPU does not hold its files")]
    return [(list(gpus), "auto: its size is not known")]


def _require_alike(model: Model, gpus: Sequence[Gpu], node: Sequence[Gpu]) -> None:
    if alike(gpus):
        return
    groups = kinds(gpus)
    told = ", ".join(f"{indices(g)} ({g[0].name}) with {gb(g[0].total or 0)}" for g in groups)
    best = max(kinds(node), key=lambda g: len(g) * (g[0].total or 0))
    raise StartError(
        f"model {model.name}: an engine would be split over unequal GPUs, {told}. The largest would be used only as "
        f"far as the smallest. Nearest that works: `gpus: [{', '.join(str(g.index) for g in best)}]` for the node, or "
        "`type: auto`, which splits over equal ones."
    )


def _require_split(
    model: Model, options: EngineOptions, gpus: Sequence[Gpu], have: int, profile: Profile
) -> None:
    tensor, stages = options.split(len(gpus))
    problem = split_problem(profile.architecture, tensor, stages)
    if problem is not None:
        raise StartError(
            f"model {model.name}: an engine over {len(gpus)} GPUs would have tensor parallel size {tensor}"
            f"{f' and pipeline parallel size {stages}' if stages > 1 else ''}, and {problem}. Nearest that works: "
            f"{nearest_split(profile.architecture, have)}."
        )


def _require_weights(model: Model, options: EngineOptions, gpus: Sequence[Gpu], profile: Profile) -> None:
    """Refuse only what is certain: weights beyond all the memory of a GPU. The rest vLLM measures."""
    fit = gpu_fit(profile, options, gpus)
    if fit is None or options.opaque or fit.weights <= fit.total:
        return
    n = len(gpus)
    raise DoesNotFitError(
        f"model {model.name} needs {gb(profile.weights.total)} for its weights alone, the {n} GPU{'s' * (n != 1)} of "
        f"an engine ({gpus[0].name}) {'have' if n != 1 else 'has'} {gb(fit.total * n)}. `shoal plan` tells what would "
        "fit.",
        model.name,
        tuple(gpu.index for gpu in gpus),
    )
