"""How a checkpoint is quantised, as its ``config.json`` says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Quantization(msgspec.Struct, frozen=True):
    """A quantised checkpoint.

    Attributes:
        method: ``fp8``, ``awq``, ``gptq``, ``mxfp4``, ``compressed-tensors`` and so on.
        bits: bits of a quantised weight, its share of scales and zero points included.
        experts_only: only the experts of MoE layers are quantised, attention and the rest are not.
    """

    method: str
    bits: float
    experts_only: bool = False


def quantization(config: Any) -> Quantization | None:
    """Return what a ``quantization_config`` describes, None where there is none.

    Scales are 16 bits for each group of weights (with zero points besides in AWQ and GPTQ, and where compressed-tensors
    says so), 32 bits for each block of FP8, 8 bits for each 32 weights of MXFP4.
    """
    if not isinstance(config, Mapping):
        return None
    method = str(config.get("quant_method") or "unknown")
    if method == "mxfp4":
        return Quantization(method, 4 + 8 / 32, experts_only=True)
    if method == "fp8":
        block = config.get("weight_block_size")
        per_block = block[0] * block[1] if isinstance(block, list) and len(block) == 2 else None
        return Quantization(method, 8 + (32 / per_block if per_block else 0))
    if method == "bitsandbytes":
        return Quantization(method, 4 + 0.127) if config.get("load_in_4bit") else Quantization(method, 8)
    if method == "compressed-tensors":
        return _compressed(method, config)
    bits = config.get("bits") or config.get("w_bit") or 4
    return Quantization(
        method, _grouped(bits, config.get("group_size") or config.get("q_group_size"), zeros=True)
    )


def _compressed(method: str, config: Mapping[str, Any]) -> Quantization:
    groups = config.get("config_groups")
    schemes = (
        [g.get("weights") for g in groups.values() if isinstance(g, Mapping)]
        if isinstance(groups, Mapping)
        else ()
    )
    found = next((scheme for scheme in schemes if isinstance(scheme, Mapping)), {})
    return Quantization(
        method,
        _grouped(found.get("num_bits") or 8, found.get("group_size"), zeros=found.get("symmetric") is False),
    )


def _grouped(bits: Any, group: Any, *, zeros: bool) -> float:
    width = float(bits) if isinstance(bits, int | float) else 4.0
    if not isinstance(group, int) or group <= 0:
        return width
    return width + (16 + (width if zeros else 0)) / group
