"""Plans a cluster: what every node will run, whether it fits, and what would if it does not. Pure.

The engines are those that `shoal.node.placement.place` gives `shoal serve`; this adds the arithmetic and the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shoal.config.schema import Model, Node
from shoal.engine.command import GIB, cpu_environment
from shoal.engine.gpu import Gpu
from shoal.engine.machine import Machine
from shoal.models.kv_cache import element_bytes, layer_token_bytes
from shoal.models.profile import Profile
from shoal.node.advice import Misfit, refused, shortfall
from shoal.node.engine_options import engine_options
from shoal.node.errors import StartError
from shoal.node.fit import Fit, cpu_fit, gpu_fit
from shoal.node.hardware import NodeHardware
from shoal.node.parallel import kinds
from shoal.node.placement import Placement, place
from shoal.node.plan_groups import PlanInput, gpus_in_words, left_over, unlike
from shoal.node.plan_types import ModelFacts, Plan, PlannedEngine, PlannedNode, Refusal
from shoal.node.specs import engine_spec
from shoal.node.units import gb

_UNEQUAL = 1.15  # nodes that differ by less are left at equal weights


def plan_cluster(given: PlanInput) -> Plan:
    """Return what the cluster will run."""
    config = given.config
    nodes: list[PlannedNode] = []
    refusals: list[Refusal] = []
    for node in config.nodes:
        planned, problems = _node(given, node)
        nodes.append(planned)
        refusals += problems
    refusals += _crowded(given, nodes)
    refusals += unlike(given, nodes)
    weighted = _weighted(given, nodes)
    return Plan(
        models=tuple(_facts(m, given) for m in config.models if m.engine != "external"),
        nodes=weighted,
        refusals=_merged(refusals),
        notes=tuple(_notes(given, weighted)),
    )


def _node(given: PlanInput, node: Node) -> tuple[PlannedNode, list[Refusal]]:
    hardware = given.hardware.get(node.name)
    if hardware is None or node.role == "gateway":
        return PlannedNode(name=node.name, role=node.role, hardware="", source=""), []
    engines: dict[tuple[str, str], PlannedEngine] = {}
    refusals: list[Refusal] = []
    for covered, models in given.config.duties_of(node).items():
        try:
            placements = place(given.config, node, hardware.gpus, given.profiles, models, stands_for=covered)
        except StartError as error:
            refusals.append(refused(node, error, given.config, given.hardware, given.profiles))
            continue
        on_cpu = _cpu_engines(given, node, placements)
        for placement in placements:
            engine = _engine(given, placement, hardware, on_cpu, "" if node.is_hot else covered)
            if (engine.id, engine.covers) in engines:
                continue
            engines[engine.id, engine.covers] = engine
            profile = given.profiles.get(engine.model)
            if engine.fit is not None and profile is not None and engine.fit.verdict != "fits":
                gpus = [g for g in hardware.gpus if g.index in engine.gpus]
                refusals.append(
                    shortfall(
                        given.config,
                        node,
                        Misfit(placement.model, gpus, engine.fit, profile, on_cpu, placement.split),
                        given.hardware,
                    )
                )
    used = {gpu for engine in engines.values() for gpu in engine.gpus}
    allowed = [g for g in hardware.gpus if node.gpus is None or g.index in node.gpus]
    planned = PlannedNode(
        name=node.name,
        role=node.role,
        hardware=_hardware(hardware),
        source=hardware.source,
        engines=tuple(engines.values()),
        idle=tuple(g.index for g in allowed if engines and g.index not in used),
    )
    return planned, refusals


def _engine(
    given: PlanInput, placement: Placement, hardware: NodeHardware, on_cpu: int, covers: str
) -> PlannedEngine:
    model, options = placement.model, engine_options(placement.model)
    gpus = [g for g in hardware.gpus if g.index in placement.gpus]
    if placement.split is not None:
        options = msgspec.structs.replace(
            options, tensor=placement.split.tensor, stages=placement.split.stages
        )
    tensor, stages = options.split(len(gpus)) if model.engine == "vllm" else (1, 1)
    profile = given.profiles.get(model.name) if model.engine == "vllm" else None
    fit: Fit | None = None
    if profile is not None and not options.opaque:
        fit = (
            gpu_fit(profile, options, gpus) if gpus else _on_cpu(given, placement, hardware, on_cpu, profile)
        )
    return PlannedEngine(
        id=placement.id,
        model=model.name,
        gpus=placement.gpus,
        hardware=gpus_in_words(gpus) if gpus else "simulated" if model.engine == "sim" else "CPU",
        tensor=tensor,
        stages=stages,
        data=options.data,
        fit=fit,
        weight=_power(gpus, hardware),
        covers=covers,
        why=placement.why,
        nodes=placement.nodes,
        rank=placement.rank,
    )


def _on_cpu(
    given: PlanInput, placement: Placement, hardware: NodeHardware, engines: int, profile: Profile
) -> Fit | None:
    if hardware.memory is None:
        return None
    spec = engine_spec(placement, given.config, "127.0.0.1")
    machine = Machine(cores=hardware.cores or 1, memory=hardware.memory, engines=max(1, engines))
    space = cpu_environment(spec, machine, spec.env).get("VLLM_CPU_KVCACHE_SPACE")
    options = engine_options(placement.model)
    if placement.split is not None:
        options = msgspec.structs.replace(
            options, tensor=placement.split.tensor, stages=placement.split.stages
        )
    cache = options.cache_bytes or (int(space) * GIB if space else None)
    # Of an engine across nodes only this node's part is here.
    budget = hardware.memory // max(1, engines) * max(1, len(placement.nodes))
    if cache is None:  # --gpu-memory-utilization: vLLM takes that share of all memory, weights included
        return cpu_fit(profile, options, int(budget * options.utilization), None)
    return cpu_fit(profile, options, budget, cache)


def _cpu_engines(given: PlanInput, node: Node, placements: Sequence[Placement]) -> int:
    """Return how many engines share the memory of a node's machine: other nodes on it run about as many."""
    here = sum(1 for p in placements if not p.gpus and p.model.engine == "vllm")
    same = sum(n.host == node.host for n in given.config.nodes if n.role != "gateway")
    return here * same


def _power(gpus: Sequence[Gpu], hardware: NodeHardware) -> float:
    """Return what an engine's hardware is good for, to compare engines of one model.

    Tokens come as fast as weights are read from memory: its bandwidth. Where that is not told, its size; for engines
    without GPUs, cores.
    """
    if not gpus:
        return float(hardware.cores)
    bandwidths = [g.bandwidth for g in gpus if g.bandwidth]
    return sum(bandwidths) / 1e9 if len(bandwidths) == len(gpus) else 0.0


def _weighted(given: PlanInput, nodes: Sequence[PlannedNode]) -> tuple[PlannedNode, ...]:
    """Return the nodes with each engine's weight relative to the slowest engine of its model."""
    weights: dict[tuple[str, str, str], float] = {}
    for model in given.config.models:
        mine = [(n, e) for n in nodes for e in n.engines if e.model == model.name]
        powers = [e.weight for _, e in mine]
        mixed = len({bool(e.gpus) for _, e in mine}) > 1  # cores and bandwidth do not compare
        if not mine or mixed:
            powers = [0.0] * len(mine)
        elif not all(powers):
            powers = [_memory(given, n, e) for n, e in mine]
        least = min((p for p in powers if p), default=0.0)
        for (node, engine), power in zip(mine, powers, strict=True):
            weights[node.name, engine.id, engine.covers] = round(power / least, 1) if least and power else 1.0

    def with_weights(node: PlannedNode) -> PlannedNode:
        engines = tuple(
            msgspec.structs.replace(e, weight=weights.get((node.name, e.id, e.covers), 1.0))
            for e in node.engines
        )
        return msgspec.structs.replace(node, engines=engines)

    return tuple(map(with_weights, nodes))


def _memory(given: PlanInput, node: PlannedNode, engine: PlannedEngine) -> float:
    gpus = given.hardware[node.name].gpus
    return float(sum(g.total or 0 for g in gpus if g.index in engine.gpus))


def _crowded(given: PlanInput, nodes: Sequence[PlannedNode]) -> Iterator[Refusal]:
    """Yield GPUs that engines take more of than there is, those of other nodes on the same host included."""
    for host in dict.fromkeys(n.host for n in given.config.nodes):
        shares: dict[int, list[tuple[str, float]]] = {}
        here = [n for n in nodes if n.name.rpartition(":")[0] == host]
        for node in here:
            for engine in node.engines:
                if engine.covers:
                    continue
                model = next(m for m in given.config.models if m.name == engine.model)
                if model.engine != "vllm":
                    continue
                share = engine_options(model).utilization
                for gpu in engine.gpus:
                    shares.setdefault(gpu, []).append((f"{node.name}/{engine.id}", share))
        for gpu, takers in shares.items():
            total = sum(share for _, share in takers)
            if total > 1:
                who = ", ".join(f"{name} {share:g}" for name, share in takers)
                fair = int(95 / len(takers)) / 100
                yield Refusal(
                    nodes=tuple(dict.fromkeys(name.rpartition("/")[0] for name, _ in takers)),
                    by="vllm",
                    sentence=f"GPU {gpu} of {host} is given to {len(takers)} engines that take {total:g} of its memory "
                    f"together ({who}), and vLLM refuses to start where that much is not free",
                    nearest=(
                        f"`args: {{gpu_memory_utilization: {fair:g}}}` for each of them",
                        "`gpus` for each node, so that none is named twice",
                    ),
                )


def _merged(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Return the refusals, those that say the same of several nodes as one."""
    merged: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for r in refusals:
        merged.setdefault((r.by, r.sentence, r.nearest), []).extend(r.nodes)
    return tuple(
        Refusal(
            nodes=tuple(dict.fromkeys(nodes)),
            by="shoal" if by == "shoal" else "vllm",
            sentence=text,
            nearest=near,
        )
        for (by, text, near), nodes in merged.items()
    )


def _notes(given: PlanInput, nodes: Sequence[PlannedNode]) -> Iterator[str]:
    assumed = [n.name for n in nodes if n.source.startswith("taken as")]
    if assumed:
        yield (
            f"The machines of {', '.join(assumed)} are taken as equal to this one. Describe them in a file "
            "(`--hardware FILE`) if they are not."
        )
    yield from left_over(given)
    for node in nodes:
        if node.idle:
            yield f"{node.name}: {_named(node.idle)} {'stay' if len(node.idle) > 1 else 'stays'} idle."
        yield from _free(given, node)
    yield from _weights(given, nodes)
    for model in given.config.models:
        options = engine_options(model) if model.engine == "vllm" else None
        if options is not None and options.opaque:
            yield f"Model {model.name}: with {options.opaque} only vLLM knows how much memory it takes."


def _free(given: PlanInput, node: PlannedNode) -> Iterator[str]:
    """Tell of GPUs that others use now."""
    hardware = given.hardware.get(node.name)
    used = {gpu for e in node.engines for gpu in e.gpus}
    for gpu in hardware.gpus if hardware is not None and hardware.live else ():
        if gpu.index in used and gpu.total and gpu.free is not None and gpu.free < 0.9 * gpu.total:
            yield (
                f"{node.name}: of GPU {gpu.index} only {gb(gpu.free)} of {gb(gpu.total)} are free now; vLLM refuses to "
                "start while others use what it wants."
            )


def _weights(given: PlanInput, nodes: Sequence[PlannedNode]) -> Iterator[str]:
    """Tell weights for nodes whose engines differ in what their hardware is good for."""
    serving = [n for n in nodes if n.engines and n.role == "serve"]
    if len({e.model for n in serving for e in n.engines}) != 1:
        return  # a node has one weight for all its models
    mixed = [n.name for n in serving if _differ(e.weight for e in n.engines)]
    if mixed:
        told = ", ".join(
            f"{n.name} on {_named([g for e in n.engines if e.weight == w for g in e.gpus])} `weight: {w:g}`"
            for n in serving
            for w in dict.fromkeys(e.weight for e in n.engines)
        )
        yield (
            f"Engines of {', '.join(mixed)} differ in what their GPUs are good for, and a node's `weight` holds for "
            f"all its engines. Make it a node for each kind of GPU, with a `port` and `gpus` of its own: {told}."
        )
        return
    means = {n.name: n.engines[0].weight for n in serving}
    least = min(means.values(), default=1.0)
    written = {n.name: n.weight for n in given.config.nodes if n.name in means}
    base = min(written.values(), default=1.0)
    off = [n for n, mean in means.items() if _differ((written[n] / base, mean / least))]
    if off:
        told = ", ".join(f"{name} `weight: {mean / least:.2g}`" for name, mean in means.items())
        yield f"The nodes differ in what they are good for. Weights after their hardware: {told}."


def _named(gpus: Sequence[int]) -> str:
    return f"GPU{'s' * (len(gpus) > 1)} {', '.join(map(str, gpus))}" if gpus else "its CPU"


def _differ(weights: Iterable[float]) -> bool:
    values = list(weights)
    return max(values) > _UNEQUAL * min(values)


def _facts(model: Model, given: PlanInput) -> ModelFacts:
    profile = given.profiles.get(model.name)
    path = str(model.path or "")
    if profile is None:
        reasons = {
            "sim": "simulated",
            "command": f"served by {(model.command or ('',))[0]}: only that knows its size",
        }
        reason = reasons.get(model.engine) or given.unknown.get(model.name, "")
        return ModelFacts(name=model.name, path=path, unknown=reason)
    arch, options = profile.architecture, engine_options(model)
    element = element_bytes(arch, options.cache_dtype, options.dtype)
    keeping = sum(window is None for window in arch.windows)
    quantised = f"{arch.quantization.method}, {arch.quantization.bits:.3g} bits" if arch.quantization else ""
    return ModelFacts(
        name=model.name,
        path=path,
        architecture=arch.name,
        parameters=profile.weights.parameters,
        bytes=profile.weights.total,
        source=profile.weights.source,
        dtype=quantised or options.dtype or ("16 bits" if arch.dtype == "float32" else arch.dtype),
        layers=arch.layers,
        heads=arch.heads,
        kv_heads=arch.kv_heads,
        latent=arch.latent,
        token_bytes=int(keeping * layer_token_bytes(arch, 1, element)),
        max_len=options.max_len if options.max_len and options.max_len > 0 else arch.max_len,
    )


def _hardware(hardware: NodeHardware) -> str:
    parts = [gpus_in_words(kind) for kind in kinds(hardware.gpus)] or ["no GPU"]
    if hardware.cores:
        parts.append(f"{hardware.cores} cores")
    if hardware.memory:
        parts.append(f"{gb(hardware.memory)} of memory")
    return ", ".join(parts)
