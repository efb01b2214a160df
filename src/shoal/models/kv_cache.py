"""How many bytes of keys and values a model keeps per token and per request. Pure.

As vLLM counts (``v1/kv_cache_interface.py``): per layer 2 x heads x head_dim numbers for each token, one latent vector
for MLA; a layer with a sliding window keeps no more than the window and what is being computed.
"""

from __future__ import annotations

from shoal.models.architecture import Architecture
from shoal.models.weights import stage_layers

BLOCK = 16
"""Tokens of a block of vLLM's KV cache (its default)."""


def element_bytes(arch: Architecture, cache_dtype: str | None, asked_dtype: str | None) -> float:
    """Return the bytes of a cached number.

    Args:
        arch: the model's shape.
        cache_dtype: the engine's ``--kv-cache-dtype``, None for auto: as wide as the model's numbers.
        asked_dtype: the engine's ``--dtype``, None for auto.
    """
    if cache_dtype not in (None, "auto"):
        name = str(cache_dtype)
        return 0.5625 if "nvfp4" in name else 0.5 if "int4" in name else 1 if "8" in name else 2
    return 4 if asked_dtype in ("float32", "float") else 2


def layer_token_bytes(arch: Architecture, tensor: int, element: float) -> float:
    """Return the bytes that one layer keeps of one token on each rank of `tensor` parallel ones."""
    if arch.latent:
        return arch.head_dim * element
    heads = max(1, arch.kv_heads // tensor)
    return 2 * heads * arch.head_dim * element


def request_bytes(
    arch: Architecture, tokens: int, *, tensor: int, stages: int, element: float, in_flight: int
) -> tuple[int, ...]:
    """Return the bytes that a request of `tokens` tokens keeps on a rank of each pipeline stage.

    Args:
        arch: the model's shape.
        tokens: prompt and answer together.
        tensor: tensor parallel size.
        stages: pipeline parallel size.
        element: bytes of a cached number.
        in_flight: tokens that may be computed at once, which sliding windows hold besides.
    """
    sizes = []
    start = 0
    one = layer_token_bytes(arch, tensor, element)
    for count in stage_layers(arch.layers, stages):
        windows = arch.windows[start : start + count]
        start += count
        sizes.append(int(sum(_kept(window, tokens, in_flight) for window in windows) * one))
    return tuple(sizes)


def _kept(window: int | None, tokens: int, in_flight: int) -> int:
    if window == 0:
        return 0
    if window is None:
        return _blocks(tokens) * BLOCK
    held = min(window - 1 + in_flight, tokens)
    return min((_blocks(held) + 1) * BLOCK, _blocks(tokens) * BLOCK + BLOCK)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
