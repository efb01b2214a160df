"""How `shoal plan` looks in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shoal.node.plan_types import ModelFacts, Plan, PlannedEngine, PlannedNode
from shoal.node.units import gb


def render(plan: Plan) -> Group:
    """Return the plan as tables and sentences."""
    parts: list[RenderableType] = [_model(facts) for facts in plan.models]
    parts += [Text(), _nodes(plan.nodes), Text(), _engines(plan)]
    if plan.notes:
        parts += [Text(), *(Text(note) for note in plan.notes)]
    parts.append(Text())
    for refusal in plan.refusals:
        who = "shoal serve refuses" if refusal.by == "shoal" else "vLLM would refuse"
        parts.append(Text(f"DOES NOT FIT on {', '.join(refusal.nodes)}: {who}.", "bold red"))
        parts.append(_indented(f"{refusal.sentence}."))
        if refusal.nearest:
            parts.append(_indented("The nearest that would work:"))
            parts += [_indented(f"- {way}", 4) for way in refusal.nearest]
    if not plan.refusals:
        unknown = [m.name for m in plan.models if m.unknown and m.unknown != "simulated"]
        untold = unknown or any(
            e.fit is None and e.hardware != "simulated" for n in plan.nodes for e in n.engines
        )
        verdict = (
            "Nothing here is refused, but not everything could be told." if untold else "Everything fits."
        )
        parts.append(Text(verdict, "bold yellow" if untold else "bold green"))
    return Group(*parts)


def _indented(text: str, columns: int = 2) -> Padding:
    return Padding(Text(text), (0, 0, 0, columns), expand=False)


def _model(facts: ModelFacts) -> RenderableType:
    head = Text.assemble(("model ", "dim"), (facts.name, "bold"), ("  ", ""), (facts.path, "dim"))
    if facts.unknown:
        return Group(head, _indented(facts.unknown))
    how = (
        "as its safetensors headers tell"
        if facts.source == "safetensors"
        else "computed from its config.json"
    )
    kept = "keys and values as one latent vector" if facts.latent else f"{facts.kv_heads} KV heads"
    size = f"{_count(facts.parameters)} parameters, {gb(facts.bytes)} of weights ({facts.dtype}), {how}"
    cache = f"longest request {facts.max_len} tokens, {facts.token_bytes / 1024:.4g} KiB of keys and values a token"
    shape = f"{facts.layers} layers, {facts.heads} heads, {kept}" + (
        f"; {cache}" if facts.token_bytes else "; keeps no keys and values"
    )
    return Group(head, _indented(f"{facts.architecture}: {size}"), _indented(shape))


def _nodes(nodes: tuple[PlannedNode, ...]) -> Table:
    table = Table("node", "role", "machine", "known from", box=None, pad_edge=False, header_style="dim")
    for node in nodes:
        table.add_row(node.name, node.role, Text(node.hardware or "-"), Text(node.source or "-", "dim"))
    return table


def _engines(plan: Plan) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    sizes = ("weights", "computing (est.)", "KV cache", "tokens", "longest requests")
    for name in ("engine", "on", "split", *sizes, "weight"):
        table.add_column(name, no_wrap=name == "engine", overflow="fold")
    table.add_column("why")
    for node in plan.nodes:
        for engine in node.engines:
            table.add_row(f"{node.name}/{engine.id}", *_engine(engine))
    if not table.row_count:
        return Text("No engine starts.", "yellow")
    legend = "weights, computing and KV cache: on the GPU (or machine) of the engine that has the least room"
    return Group(table, Text(legend, "dim"))


def _engine(engine: PlannedEngine) -> list[Text]:
    on = engine.hardware
    if engine.gpus:
        on = f"GPU{'s' * (len(engine.gpus) > 1)} {_indices(engine.gpus)}"
    sizes = [
        *([f"TP {engine.tensor}"] if engine.tensor > 1 else []),
        *([f"PP {engine.stages}"] if engine.stages > 1 else []),
        *([f"DP {engine.data}"] if engine.data > 1 else []),
    ]
    why = engine.why + (f" (when it stands in for {engine.covers})" if engine.covers else "")
    fit = engine.fit
    if fit is None:
        told = ["?" if engine.hardware != "simulated" else "-"] * 5
    else:
        requests = f"{max(0.0, fit.requests):.1f} of {fit.max_len}" if fit.request else "-"
        cache = gb(fit.cache) if fit.cache > 0 else "none"
        told = [gb(fit.weights), gb(fit.overhead), cache, f"{fit.tokens:,}" if fit.request else "-", requests]
    style = "red" if fit is not None and fit.verdict != "fits" else ""
    split = Text(" x ".join(sizes) or "-")
    if engine.nodes:
        split.append(f" over {len(engine.nodes)} nodes", "dim")
    return [Text(on), split, *(Text(t, style) for t in told), Text(f"{engine.weight:g}"), Text(why, "dim")]


def _indices(gpus: tuple[int, ...]) -> str:
    first, last = gpus[0], gpus[-1]
    if len(gpus) > 2 and gpus == tuple(range(first, last + 1)):
        return f"{first}-{last}"
    return ", ".join(map(str, gpus))


def _count(parameters: int) -> str:
    for size, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if parameters >= size:
            return f"{parameters / size:.4g} {name}"
    return str(parameters)
