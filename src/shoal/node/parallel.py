"""Which tensor and pipeline parallel sizes a model can be split into, and which GPUs may be split over. Pure.

vLLM's own rules (``config/model.py``, ``model_executor/layers/linear.py``): attention heads divide evenly; key and
value heads divide evenly or are repeated evenly; so does the width of an MLP; each pipeline stage has a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.engine.gpu import Gpu
from shoal.models.architecture import Architecture

_SAME = 0.05  # GPUs of one product differ by what ECC and the driver take


def tensor_problem(arch: Architecture, tensor: int) -> str | None:
    """Return why a model cannot be split `tensor` ways, None if it can."""
    if arch.heads % tensor:
        return f"its {arch.heads} attention heads do not divide by {tensor}"
    if not arch.latent and arch.kv_heads % tensor and tensor % arch.kv_heads:
        return f"its {arch.kv_heads} key-value heads neither divide by {tensor} nor divide {tensor}"
    width = arch.expert_width if arch.experts else arch.intermediate
    if width % tensor:
        return f"its MLPs are {width} wide, which does not divide by {tensor}"
    return None


def split_problem(arch: Architecture, tensor: int, stages: int) -> str | None:
    """Return why a model cannot be split `tensor` x `stages` ways, None if it can."""
    if stages > arch.layers:
        return f"it has {arch.layers} layers, fewer than {stages} pipeline stages"
    return tensor_problem(arch, tensor)


def splits(arch: Architecture, gpus: int) -> tuple[tuple[int, int], ...]:
    """Return all (tensor, pipeline) sizes that use exactly `gpus` GPUs and work, most tensor parallel first."""
    sizes = ((t, gpus // t) for t in range(gpus, 0, -1) if gpus % t == 0)
    return tuple((t, p) for t, p in sizes if split_problem(arch, t, p) is None)


def tensor_sizes(arch: Architecture, gpus: int) -> tuple[int, ...]:
    """Return the tensor parallel sizes from 1 to `gpus` that work, ascending."""
    return tuple(t for t in range(1, gpus + 1) if tensor_problem(arch, t) is None)


def nearest_split(arch: Architecture, gpus: int) -> str:
    """Return what to write so that engines on up to `gpus` GPUs of a node work."""
    most = max(tensor_sizes(arch, gpus), default=1)
    idle = gpus % most
    left = f", {idle} of {gpus} GPUs idle" if idle else ""
    ways = [f"`gpus_per_engine: {most}` (tensor parallel {most}{left})"]
    exact = next(((t, p) for t, p in splits(arch, gpus) if p > 1), None)
    if exact is not None:
        ways.append(
            f"`args: {{tensor_parallel_size: {exact[0]}, pipeline_parallel_size: {exact[1]}}}` over all {gpus}"
        )
    return ", or ".join(ways)


def alike(gpus: Iterable[Gpu]) -> bool:
    """Return whether GPUs have the same memory, so that an engine can be split over them without waste."""
    totals = [gpu.total for gpu in gpus]
    known = [total for total in totals if total is not None]
    return len(known) < len(totals) or not known or max(known) <= min(known) * (1 + _SAME)


def kinds(gpus: Sequence[Gpu]) -> tuple[tuple[Gpu, ...], ...]:
    """Return GPUs in groups of equal ones, the largest memory first; order within a group is kept."""
    groups: list[list[Gpu]] = []
    for gpu in gpus:
        group = next((g for g in groups if alike([*g, gpu]) and g[0].name == gpu.name), None)
        if group is None:
            groups.append([gpu])
        else:
            group.append(gpu)
    return tuple(tuple(g) for g in sorted(groups, key=lambda g: -(g[0].total or 0)))


def indices(gpus: Iterable[Gpu]) -> str:
    """Return the indices of GPUs as people write them: ``0``, ``0-3``, ``0, 2``."""
    numbers = sorted(gpu.index for gpu in gpus)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))
