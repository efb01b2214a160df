"""What to say of an engine that does not fit: the numbers, and the nearest things that would. Pure.

Each suggestion is one that was computed to fit, with the same arithmetic that found the shortfall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shoal.config.schema import Config, Model, Node
from shoal.engine.gpu import Gpu
from shoal.models.profile import Profile
from shoal.models.weights import Layer
from shoal.node.engine_options import EngineOptions, engine_options
from shoal.node.errors import DoesNotFitError, StartError
from shoal.node.fit import GIB, USEFUL, Fit, cpu_fit, gpu_fit
from shoal.node.hardware import NodeHardware
from shoal.node.parallel import kinds, tensor_sizes
from shoal.node.plan_types import Refusal
from shoal.node.split import Split, split_of
from shoal.node.units import gb

_MOST_GPUS = 16  # of one machine, when hardware is suggested
_MOST_NODES = 16  # of one engine, likewise
_SHORT = 1024  # tokens; lengths are suggested in multiples of it
_ENOUGH = 8192  # tokens; hardware is not suggested for requests that are shorter, unless the model's are
_SMALLER = (("an 8-bit (FP8)", 8.0), ("a 4-bit (AWQ, GPTQ)", 4.2))


def refused(
    node: Node,
    error: StartError,
    config: Config,
    hardware: Mapping[str, NodeHardware],
    profiles: Mapping[str, Profile],
) -> Refusal:
    """Return the refusal for what `place` raised, with what would work."""
    if isinstance(error, DoesNotFitError):
        model = _model(config, error.model)
        gpus = [g for g in hardware[node.name].gpus if g.index in error.gpus]
        fit = gpu_fit(profiles[error.model], engine_options(model), gpus)
        split = _split_here(config, node, model, gpus, profiles[error.model])
        if split is not None:
            fit = gpu_fit(profiles[error.model], _as_split(engine_options(model), split), gpus)
        if fit is not None:
            misfit = Misfit(model, gpus, fit, profiles[error.model], split=split)
            return shortfall(config, node, misfit, hardware)
    sentence, _, nearest = str(error).partition(" Nearest that works: ")
    ways = tuple(way.removesuffix(".") for way in nearest.split(", or ") if way)
    return Refusal(nodes=(node.name,), by="shoal", sentence=sentence.rstrip("."), nearest=ways)


class Misfit(msgspec.Struct, frozen=True):
    """An engine that does not fit where it was placed.

    Attributes:
        model: what it serves.
        gpus: its GPUs, empty for an engine on the CPU.
        fit: how its memory divides.
        profile: the model's.
        engines: engines without GPUs that share the machine.
        split: how it is divided over nodes, None for an engine on one.
    """

    model: Model
    gpus: Sequence[Gpu]
    fit: Fit
    profile: Profile
    engines: int = 1
    split: Split | None = None


def _as_split(options: EngineOptions, split: Split) -> EngineOptions:
    return msgspec.structs.replace(options, tensor=split.tensor, stages=split.stages)


def _split_here(
    config: Config, node: Node, model: Model, gpus: Sequence[Gpu], profile: Profile
) -> Split | None:
    """Return how a model's engines are divided where they span nodes, None where they do not."""
    span = config.span_of(model)
    return split_of(model, len(gpus), span, profile) if span > 1 and node.role != "gateway" else None


def shortfall(config: Config, node: Node, misfit: Misfit, hardware: Mapping[str, NodeHardware]) -> Refusal:
    """Return the refusal for an engine that does not fit.

    Args:
        config: the configuration.
        node: where it was placed.
        misfit: the engine.
        hardware: the machine of each node.
    """
    model, gpus, fit, profile, engines = (
        misfit.model,
        misfit.gpus,
        misfit.fit,
        misfit.profile,
        misfit.engines,
    )
    options = engine_options(model)
    if misfit.split is not None:
        options = _as_split(options, misfit.split)
    if not gpus:
        sentence = _cpu_sentence(model, fit, engines)
        return Refusal(
            nodes=(node.name,),
            by="vllm",
            sentence=sentence,
            nearest=tuple(_on_cpu(options, fit, profile, engines)),
        )
    machine = [g for g in hardware[node.name].gpus if node.gpus is None or g.index in node.gpus]
    if misfit.split is None:
        ways = [*_here(options, gpus, machine, fit, profile), *_elsewhere(config, misfit, hardware)]
    else:
        ways = [*_wider(config, misfit, options, hardware)]
    certain = fit.weights > fit.total
    return Refusal(
        nodes=(node.name,),
        by="shoal" if certain else "vllm",
        sentence=_gpu_sentence(model, options, gpus, fit, profile) + _together(config, model, hardware),
        nearest=tuple(dict.fromkeys(ways))[:5],
    )


def _gpu_sentence(
    model: Model, options: EngineOptions, gpus: Sequence[Gpu], fit: Fit, profile: Profile
) -> str:
    n = max(len(gpus), fit.tensor * fit.stages)
    each = "each of its GPUs" if n > 1 else "its GPU"
    budget = f"{gb(fit.budget)} ({options.utilization:g} of {gb(fit.total)})"
    if fit.verdict == "weights":
        split = f", {gb(fit.weights)} on {each}" if n > 1 else ""
        return (
            f"model {model.name} needs {gb(profile.weights.total)} for its weights{split} and about "
            f"{gb(fit.overhead)} to compute, {each} ({gpus[0].name}) gives {budget}"
        )
    return (
        f"model {model.name}: beside {gb(fit.weights)} of weights and about {gb(fit.overhead)} to compute, {each} "
        f"({gpus[0].name}) has {gb(fit.cache)} of its {budget} left for keys and values; one request of {fit.max_len} "
        f"tokens, the longest it allows, keeps {gb(fit.request)}"
    )


def _cpu_sentence(model: Model, fit: Fit, engines: int) -> str:
    whose = f"{gb(fit.total)} ({engines} engines share the machine)" if engines > 1 else gb(fit.total)
    if fit.verdict == "weights":
        return (
            f"model {model.name} needs {gb(fit.weights)} of memory for its weights, about {gb(fit.overhead)} to "
            f"compute and room for keys and values, an engine has {whose}"
        )
    return (
        f"model {model.name}: an engine on the CPU keeps {gb(fit.cache)} for keys and values, and one request of "
        f"{fit.max_len} tokens, the longest it allows, keeps {gb(fit.request)}"
    )


def _together(config: Config, model: Model, hardware: Mapping[str, NodeHardware]) -> str:
    """Return what the model's nodes have together, the sentence's end."""
    share = engine_options(model).utilization
    sizes = [
        sum(g.total or 0 for g in machine.gpus) * share
        for n in config.nodes_of(model)
        if (machine := hardware.get(n.name)) is not None and n.gpus is None
    ]
    if len(sizes) < 2:
        return ""
    return (
        f"; the largest node gives {gb(max(sizes))}, {'both' if len(sizes) == 2 else f'all {len(sizes)}'} "
        f"together {gb(sum(sizes))}"
    )


def _here(
    options: EngineOptions, gpus: Sequence[Gpu], machine: Sequence[Gpu], fit: Fit, profile: Profile
) -> Iterator[str]:
    """Yield what would fit on the same node."""
    if fit.verdict == "cache":
        yield from _shorter(options, gpus, profile)
        if options.cache_dtype is None and not profile.architecture.latent:
            fp8 = gpu_fit(profile, msgspec.structs.replace(options, cache_dtype="fp8"), gpus)
            if fp8 is not None and fp8.verdict == "fits":
                yield f"`args: {{kv_cache_dtype: fp8}}`, which halves a request to {gb(fp8.request)}"
    if found := _fewest(options, profile, _largest_kind(machine), len(gpus) + 1):
        yield f"`gpus_per_engine: {found.size}` on the same node{found.length}"
    yield from _smaller(options, profile, machine)


def _shorter(options: EngineOptions, gpus: Sequence[Gpu], profile: Profile) -> Iterator[str]:
    best = gpu_fit(profile, msgspec.structs.replace(options, max_len=-1), gpus)
    if best is not None and best.verdict == "fits" and best.max_len >= _SHORT:
        yield f"`args: {{max_model_len: {_rounded(best.max_len)}}}`, about the longest that fits"


def _smaller(options: EngineOptions, profile: Profile, machine: Sequence[Gpu]) -> Iterator[str]:
    """Yield quantised checkpoints of the model that would fit on the node."""
    if profile.architecture.quantization is not None:
        return
    group = _largest_kind(machine)
    for name, bits in _SMALLER:
        small = shrunk(profile, bits)
        if found := _fewest(options, small, group, 1):
            on = (
                f"on {found.size} GPUs of a node (`gpus_per_engine: {found.size}`)"
                if found.size > 1
                else "on one GPU"
            )
            yield f"{name} checkpoint of it, about {gb(small.weights.total)}, {on}{found.length}"
            return


def _elsewhere(config: Config, misfit: Misfit, hardware: Mapping[str, NodeHardware]) -> Iterator[str]:
    """Yield what would take other nodes or other hardware."""
    model, gpus, profile = misfit.model, misfit.gpus, misfit.profile
    options = engine_options(model)
    if (group := across(config, model, profile, hardware)) is not None:
        yield group
    elif profile.architecture.quantization is None:
        for name, bits in _SMALLER:
            small = shrunk(profile, bits)
            if (group := across(config, model, small, hardware)) is not None:
                yield f"{name} checkpoint of it, about {gb(small.weights.total)}, as {group}"
                break
    if found := _fewest(options, profile, [gpus[0]] * _MOST_GPUS, len(gpus) + 1):
        like = "these" if len(gpus) > 1 else "this"
        yield f"a node with {found.size} GPUs like {like} ({gpus[0].name}){found.length}"
    yield from _smaller_model(options, gpus, profile)


def _smaller_model(options: EngineOptions, gpus: Sequence[Gpu], profile: Profile) -> Iterator[str]:
    """Yield how large a model the engine's GPUs hold, with a useful KV cache."""
    fit = gpu_fit(profile, options, gpus)
    if fit is None:
        return
    room = (fit.budget - fit.overhead) / (1 + USEFUL) * len(gpus)
    if room > 0:
        on = "on one such GPU" if len(gpus) == 1 else f"on {len(gpus)} such GPUs"
        yield f"a model of up to about {gb(room)} of weights {on}: {room / 2e9:.0f} billion parameters in 16 bits"


def across(
    config: Config, model: Model, profile: Profile, hardware: Mapping[str, NodeHardware]
) -> str | None:
    """Return the engine over the fewest nodes that holds a model: tensor parallel inside a node, pipeline across.

    None if all nodes do not hold it. The nodes of a group have equal GPUs, and as many of them take part in each.
    """
    options = engine_options(model)
    groups = [
        _largest_kind([g for g in hardware[n.name].gpus if n.gpus is None or g.index in n.gpus])
        for n in config.nodes_of(model)
        if n.name in hardware and hardware[n.name].gpus
    ]
    for count in range(2, len(groups) + 1):
        for first in groups:
            alike = [g for g in groups if _same(first[0], g[0])]
            most = min((len(g) for g in sorted(alike, key=len, reverse=True)[:count]), default=0)
            if len(alike) < count or not most:
                continue
            for tensor in reversed(tensor_sizes(profile.architecture, most)):
                if count > profile.architecture.layers:
                    continue
                split = msgspec.structs.replace(options, tensor=tensor, stages=count, data=1)
                if found := _found(split, profile, [first[0]] * (tensor * count)):
                    inside = f"tensor parallel {tensor} in each, " if tensor > 1 else ""
                    return (
                        f"one engine over {count} nodes, `nodes_per_engine: {count}` ({inside}pipeline parallel "
                        f"{count} across){found.length}"
                    )
                break
    return None


def _same(one: Gpu, other: Gpu) -> bool:
    return len(kinds([one, other])) == 1


def _wider(
    config: Config, misfit: Misfit, options: EngineOptions, hardware: Mapping[str, NodeHardware]
) -> Iterator[str]:
    """Yield what would fit instead of an engine across nodes that does not."""
    model, profile, split = misfit.model, misfit.profile, misfit.split
    if misfit.fit.verdict == "cache":
        yield from _shorter(options, misfit.gpus, profile)
    group = across(config, model, profile, hardware)
    if group is not None:
        yield group
    elif profile.architecture.quantization is None:
        for name, bits in _SMALLER:
            small = shrunk(profile, bits)
            if (group := across(config, model, small, hardware)) is not None:
                yield f"{name} checkpoint of it, about {gb(small.weights.total)}, as {group}"
                break
    machine = misfit.gpus[0]
    for nodes in range((split.nodes if split else 1) + 1, _MOST_NODES + 1):
        for tensor in reversed(tensor_sizes(profile.architecture, len(misfit.gpus))):
            wide = msgspec.structs.replace(options, tensor=tensor, stages=nodes, data=1)
            if nodes <= profile.architecture.layers and (
                found := _found(wide, profile, [machine] * (tensor * nodes))
            ):
                yield f"one engine over {nodes} nodes like these{found.length}"
                return
    room = (
        (misfit.fit.budget - misfit.fit.overhead)
        / (1 + USEFUL)
        * (split.tensor * split.stages if split else 1)
    )
    yield f"a model of up to about {gb(max(0, int(room)))} of weights on the same nodes"


def _on_cpu(options: EngineOptions, fit: Fit, profile: Profile, engines: int) -> Iterator[str]:
    """Yield what would fit on a machine without GPUs."""
    room = fit.budget - fit.weights - fit.overhead
    if fit.verdict == "cache":
        best = cpu_fit(profile, msgspec.structs.replace(options, max_len=-1), fit.budget, fit.cache)
        if best.verdict == "fits" and best.max_len >= _SHORT:
            yield f"`args: {{max_model_len: {_rounded(best.max_len)}}}`, the longest that fits"
        if room >= (space := -(-fit.request // GIB) * GIB):
            yield f'`env: {{VLLM_CPU_KVCACHE_SPACE: "{space // GIB}"}}`, GiB for keys and values'
    elif room >= GIB:
        yield f'`env: {{VLLM_CPU_KVCACHE_SPACE: "{room // GIB}"}}`, GiB for keys and values, with shorter requests'
    if engines > 1:
        yield "fewer engines on the machine"
    need = (fit.weights + fit.overhead + max(fit.request, GIB)) * engines
    if need > fit.total * engines:
        yield f"a machine with {gb(need)} of memory"


def shrunk(profile: Profile, bits: float) -> Profile:
    """Return the profile of a checkpoint quantised to `bits` per weight; embeddings stay as they are."""
    scale = bits / 16
    layers = tuple(
        Layer(round(x.shard * scale), round(x.kv * scale), round(x.whole * scale), round(x.experts * scale))
        for x in profile.weights.layers
    )
    return Profile(profile.architecture, msgspec.structs.replace(profile.weights, layers=layers))


class _Found(msgspec.Struct, frozen=True):
    """GPUs that hold a model: how many, and the end of the sentence if only shorter requests fit."""

    size: int
    length: str


def _found(options: EngineOptions, profile: Profile, gpus: Sequence[Gpu]) -> _Found | None:
    """Return whether an engine on exactly these GPUs holds the model, if need be with shorter requests."""
    fit = gpu_fit(profile, options, gpus)
    if fit is None or fit.verdict == "fits":
        return None if fit is None else _Found(len(gpus), "")
    best = gpu_fit(profile, msgspec.structs.replace(options, max_len=-1), gpus)
    if best is None or best.verdict != "fits" or best.max_len < min(_ENOUGH, fit.max_len):
        return None
    return _Found(len(gpus), f" with `max_model_len: {_rounded(best.max_len)}`")


def _fewest(options: EngineOptions, profile: Profile, gpus: Sequence[Gpu], least: int) -> _Found | None:
    """Return the fewest GPUs, at least `least`, of which an engine holds the model; None if all do not."""
    free = _free_split(options)
    sizes = (s for s in tensor_sizes(profile.architecture, len(gpus)) if s >= least)
    return next((found for size in sizes if (found := _found(free, profile, gpus[:size]))), None)


def _rounded(tokens: int) -> int:
    return tokens // _SHORT * _SHORT if tokens >= _SHORT else tokens


def _free_split(options: EngineOptions) -> EngineOptions:
    return msgspec.structs.replace(options, tensor=None, stages=None, data=1)


def _largest_kind(gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """Return the equal GPUs among some that have the most memory together."""
    return max(kinds(gpus), key=lambda g: sum(gpu.total or 0 for gpu in g), default=())


def _model(config: Config, name: str) -> Model:
    return next(m for m in config.models if m.name == name)
