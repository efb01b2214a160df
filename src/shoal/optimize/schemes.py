"""Which quantisation for which model and hardware. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shoal.optimize.errors import OptimizeError

Scheme = Literal["w8a8", "w4a16", "fp8"]
GROUP_SIZES = (128, 64, 32)
"""Sizes of groups that vLLM's kernels have, the smallest file first."""
_FP8 = (8, 9)
# Models whose hidden states are narrower (under about a billion parameters) lose most with four bits. They get the
# finest groups, with zero points, for up to half a bit more per weight (measured in docs/optimize.md).
_NARROW = 2048


@dataclass(frozen=True)
class Quantization:
    """How a model is quantised.

    Attributes:
        scheme: ``w8a8`` 8-bit integers for weights and activations, ``w4a16`` 4-bit weights, ``fp8`` 8-bit floats.
        group_size: weights that share a scale; None where each output channel has one.
        symmetric: zero lies in the middle of a group's values; else each group has a zero point of its own, too.
        calibrated: it takes text.
    """

    scheme: Scheme
    group_size: int | None = None
    symmetric: bool = True
    calibrated: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def input_sizes(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the input widths of a decoder's linear layers, which groups must divide."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    attention = heads * int(config.get("head_dim") or hidden // heads)
    return hidden, attention, int(config.get("intermediate_size") or 4 * hidden)


def group_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return the sizes of groups that divide all `sizes`, the largest first."""
    sizes = tuple(sizes)
    return tuple(group for group in GROUP_SIZES if all(size % group == 0 for size in sizes))


def choose(
    name: str,
    config: Mapping[str, Any],
    capability: tuple[int, int] | None = None,
    *,
    group: int | None = None,
    symmetric: bool | None = None,
) -> Quantization:
    """Return the quantisation that `name` means for a model.

    ``auto`` is fp8 where the GPUs compute it (Ada, Hopper and later) and w8a8 elsewhere, CPUs included. Four bits are
    in groups as large as the model's sizes allow, without zero points; those of narrow models in groups as small as
    vLLM has them, with zero points.

    Args:
        name: ``w8a8``, ``w4a16``, ``fp8`` or ``auto``.
        config: the model's config.json.
        capability: the lowest CUDA compute capability of the GPUs; None without any.
        group: of ``w4a16``, in place of what is chosen.
        symmetric: of ``w4a16``: without a zero point for each group, in place of what is chosen.

    Raises:
        OptimizeError: the model cannot have such groups, or the scheme has none.
    """
    if name == "auto":
        name = "fp8" if capability is not None and capability >= _FP8 else "w8a8"
    if name != "w4a16" and (group is not None or symmetric is not None):
        raise OptimizeError(f"groups and zero points are for w4a16; {name} has a scale for each channel")
    if name == "fp8":
        return Quantization("fp8", calibrated=False)
    if name == "w4a16":
        return _four_bits(config, group, symmetric)
    return Quantization("w8a8")


def _four_bits(config: Mapping[str, Any], group: int | None, symmetric: bool | None) -> Quantization:
    sizes = input_sizes(config)
    fit = group_sizes(sizes)
    if group is not None and group not in fit:
        raise OptimizeError(
            f"groups of {group} do not fit this model; {', '.join(map(str, fit)) or 'none'} do (its sizes: "
            f"{', '.join(map(str, sizes))})"
        )
    if not fit:
        if symmetric is False:
            raise OptimizeError("a zero point needs groups, and none divides this model's sizes")
        return Quantization("w4a16")
    narrow = sizes[0] < _NARROW
    return Quantization(
        "w4a16",
        group or (fit[-1] if narrow else fit[0]),
        not narrow if symmetric is None else symmetric,
    )


def not_served_here(chosen: Quantization, *, gpus: bool, cpuinfo: str) -> str | None:
    """Return why vLLM on this machine cannot serve what can well be made on it; None where it can.

    Args:
        chosen: the quantisation.
        gpus: there are some.
        cpuinfo: what ``/proc/cpuinfo`` says.
    """
    # Of vLLM's libraries for x86 only that for AVX-512 has `cpu_gemm_wna16`: with the other one the engine starts and
    # fails at the first request (seen with 0.32).
    if chosen.scheme == "w4a16" and not gpus and "avx2" in cpuinfo and "avx512f" not in cpuinfo:
        return (
            "this CPU has no AVX-512, which vLLM's kernels for 4 bits need: serve the result on another machine, or "
            "take --scheme w8a8"
        )
    return None
