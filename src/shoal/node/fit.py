"""Whether an engine fits where it is placed, in the way vLLM counts. Pure.

vLLM takes a share of each GPU (``--gpu-memory-utilization``) and divides it: weights, what computing needs, and all the
rest for keys and values. It refuses to start if one request of the longest length does not fit into that rest
(``v1/core/kv_cache_utils.py``). Weights and keys and values are computed exactly; what computing needs is measured by
vLLM itself at the start and estimated here (docs/placement.md tells how).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shoal.engine.gpu import Gpu
from shoal.models.architecture import Architecture
from shoal.models.kv_cache import element_bytes, request_bytes
from shoal.models.profile import Profile
from shoal.models.weights import rank_bytes
from shoal.node.engine_options import EngineOptions

GIB = 1024**3
USEFUL = 0.2
"""KV cache that `type: auto` wants, as a share of the weights: with less, few requests would run together."""

_GRAPHS = 3 * GIB // 4  # CUDA graphs, the allocator's slack, cuBLAS workspaces
_COLLECTIVES = GIB // 2  # NCCL and custom all-reduce buffers of an engine on several GPUs
_DRIVER = 0.006  # of a GPU's memory: NVML tells 85.52 GB of an H100, CUDA sees 85.02
_LARGE = 70 * GIB  # from this size on vLLM computes more tokens at once (engine/arg_utils.py)
_CPU_PROCESS = 9 * GIB // 4  # an engine's processes with PyTorch and vLLM loaded, measured with vLLM 0.32

Verdict = Literal["fits", "weights", "cache"]
Requests = Callable[[int], tuple[int, ...]]
"""Tokens -> bytes that a request of that length keeps on each pipeline stage."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine's memory divides on the GPU (or machine) that has the least room.

    Attributes:
        tensor: tensor parallel size.
        stages: pipeline parallel size.
        budget: bytes it may take.
        weights: bytes of weights.
        overhead: bytes that computing needs, estimated.
        cache: bytes for keys and values; negative if weights and overhead are beyond the budget.
        request: bytes that one request of the longest length keeps.
        max_len: the longest length in tokens.
        tokens: tokens of longest requests the whole cache holds.
        total: bytes of the GPU or machine.
    """

    tensor: int
    stages: int
    budget: int
    weights: int
    overhead: int
    cache: int
    request: int
    max_len: int
    tokens: int
    total: int

    @property
    def verdict(self) -> Verdict:
        """``weights``: not even they fit. ``cache``: no room for one request of the longest length."""
        if self.cache < 0:
            return "weights"
        return "cache" if self.cache < self.request else "fits"

    @property
    def requests(self) -> float:
        """How many requests of the longest length the cache holds at once."""
        return self.cache / self.request if self.request else float("inf")

    @property
    def roomy(self) -> bool:
        """Whether the cache is large enough to be useful, and not only possible."""
        return self.verdict == "fits" and (not self.request or self.cache >= USEFUL * self.weights)


def gpu_fit(profile: Profile, options: EngineOptions, gpus: Sequence[Gpu]) -> Fit | None:
    """Return how an engine fits on some GPUs; None where their memory is not known.

    Args:
        profile: the model.
        options: the engine's arguments.
        gpus: those of the engine, at least one, as many as it is split into.
    """
    totals = [gpu.total for gpu in gpus if gpu.total is not None]
    if len(totals) < len(gpus):
        return None
    tensor, stages = options.split(len(gpus))
    total = min(totals)
    large = total >= _LARGE and "a100" not in gpus[0].name.lower()
    tokens = options.batched_tokens or (8192 if large else 2048)
    sequences = options.sequences or (1024 if large else 256)
    budget = int(total * options.utilization)
    overhead = _computing(profile.architecture, tensor, tokens, sequences)
    overhead += _GRAPHS + (_COLLECTIVES if tensor * stages > 1 else 0) + int(budget * _DRIVER)
    return _fit(profile, options, _Terms((tensor, stages), budget, total, overhead, tokens))


def cpu_fit(profile: Profile, options: EngineOptions, budget: int, cache: int | None) -> Fit:
    """Return how an engine without GPUs fits into its share of a machine's memory.

    Args:
        profile: the model.
        options: the engine's arguments.
        budget: bytes of memory for the engine.
        cache: bytes it is told to take for keys and values, for each of its workers; None for what is left.
    """
    tensor, stages = options.split(0)
    workers = tensor * stages
    tokens = options.batched_tokens or 2048 * workers
    overhead = _CPU_PROCESS + _computing(profile.architecture, tensor, tokens, options.sequences or 128)
    terms = _Terms((tensor, stages), budget // workers, budget, overhead, tokens, cache)
    return _fit(profile, options, terms)


class _Terms(msgspec.Struct, frozen=True):
    """What the hardware gives: see `Fit`; `cache` where its size is fixed."""

    split: tuple[int, int]
    budget: int
    total: int
    overhead: int
    in_flight: int
    cache: int | None = None


def _fit(profile: Profile, options: EngineOptions, terms: _Terms) -> Fit:
    arch = profile.architecture
    tensor, stages = terms.split[0], min(terms.split[1], arch.layers)
    max_len = arch.max_len if options.max_len in (None, -1) else int(options.max_len or 1)
    element = element_bytes(arch, options.cache_dtype, options.dtype)
    ranks = rank_bytes(profile.weights, tensor, stages, arch.kv_heads, options.data)

    def requests(tokens: int) -> tuple[int, ...]:
        return request_bytes(
            arch, tokens, tensor=tensor, stages=stages, element=element, in_flight=2 * terms.in_flight
        )

    cache = options.cache_bytes or terms.cache
    rooms = [terms.budget - weights - terms.overhead for weights in ranks]
    if cache is not None:  # what is asked for is taken, or the engine dies of it
        rooms = [cache if cache <= room else room - cache for room in rooms]
    if options.max_len == -1:
        max_len = longest(max_len, requests, rooms)
    sizes = requests(max_len)
    worst = min(range(len(ranks)), key=lambda i: rooms[i] / sizes[i] if sizes[i] else rooms[i])
    held = min((max(0, room) / size for room, size in zip(rooms, sizes, strict=True) if size), default=0.0)
    return Fit(
        tensor=tensor,
        stages=stages,
        budget=terms.budget,
        weights=ranks[worst],
        overhead=terms.overhead,
        cache=rooms[worst],
        request=sizes[worst],
        max_len=max_len,
        tokens=int(held * max_len) * options.data,
        total=terms.total,
    )


def longest(most: int, requests: Requests, rooms: Sequence[int]) -> int:
    """Return the longest length in tokens, at most `most`, of which one request fits; at least 1."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if all(size <= room for size, room in zip(requests(middle), rooms, strict=True)):
            low = middle
        else:
            high = middle - 1
    return low


def _computing(arch: Architecture, tensor: int, tokens: int, sequences: int) -> int:
    """Return an estimate of the bytes that vLLM's profiling run has in use beside the weights, at its peak.

    A handful of hidden states, an MLP's (or the chosen experts') gate, up and product, and the logits with the
    sampler's float32 copy of them. All in 16 bits but the latter.
    """
    mlp = arch.expert_width * max(1, arch.experts_per_token) if arch.experts else arch.intermediate
    hidden = tokens * arch.hidden * 2 * 6
    return hidden + tokens * mlp * 2 * 3 // tensor + sequences * arch.vocab * (2 + 4 + 4) * arch.caches
