from __future__ import annotations

import pytest

from shoal.optimize.errors import OptimizeError
from shoal.optimize.schemes import Quantization, choose, group_sizes, input_sizes, not_served_here

SMOLLM2 = {"hidden_size": 576, "num_attention_heads": 9, "intermediate_size": 1536}
LLAMA_8B = {"hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 14336}


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ((4096, 14336), (128, 64, 32)),
        ((576, 1536), (64, 32)),
        ((576, 1536, 96), (32,)),
        ((100, 4096), ()),
        ((1,), ()),
    ],
)
def test_groups_divide_every_input(sizes: tuple[int, ...], groups: tuple[int, ...]) -> None:
    assert group_sizes(sizes) == groups


def test_the_inputs_are_those_of_a_decoders_linear_layers() -> None:
    assert input_sizes(SMOLLM2) == (576, 576, 1536)
    assert input_sizes(SMOLLM2 | {"head_dim": 128}) == (576, 1152, 1536)


@pytest.mark.parametrize(
    ("capability", "scheme"),
    [(None, "w8a8"), ((8, 0), "w8a8"), ((8, 9), "fp8"), ((9, 0), "fp8"), ((10, 0), "fp8")],
)
def test_auto_is_what_the_hardware_computes(capability: tuple[int, int] | None, scheme: str) -> None:
    assert choose("auto", SMOLLM2, capability).scheme == scheme


def test_only_four_bits_are_in_groups_and_fp8_needs_no_text() -> None:
    assert choose("w4a16", LLAMA_8B).group_size == 128
    assert choose("w8a8", SMOLLM2, (9, 0)).group_size is None
    assert not choose("fp8", SMOLLM2).calibrated
    assert choose("w8a8", SMOLLM2).calibrated


def test_narrow_models_get_finer_groups_with_zero_points() -> None:
    assert choose("w4a16", LLAMA_8B) == Quantization("w4a16", 128, symmetric=True)
    assert choose("w4a16", SMOLLM2) == Quantization("w4a16", 32, symmetric=False)


def test_who_says_a_size_or_zero_points_gets_them() -> None:
    assert choose("w4a16", LLAMA_8B, group=32, symmetric=False) == Quantization("w4a16", 32, symmetric=False)
    assert choose("w4a16", SMOLLM2, group=64, symmetric=True) == Quantization("w4a16", 64, symmetric=True)
    # Sizes that no group divides: each output channel has a scale.
    assert choose("w4a16", SMOLLM2 | {"intermediate_size": 1001}).group_size is None


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        OptimizeError, match=r"groups of 128 do not fit this model; 64, 32 do \(its sizes: 576, 576,"
    ):
        choose("w4a16", SMOLLM2, group=128)
    with pytest.raises(OptimizeError, match="a zero point needs groups"):
        choose("w4a16", SMOLLM2 | {"intermediate_size": 1001}, symmetric=False)
    with pytest.raises(OptimizeError, match="are for w4a16; w8a8 has a scale for each channel"):
        choose("auto", SMOLLM2, group=64)


@pytest.mark.parametrize(
    ("scheme", "gpus", "cpuinfo", "told"),
    [
        ("w4a16", False, "flags: sse4_2 avx2", True),
        ("w4a16", False, "flags: avx2 avx512f", False),
        ("w4a16", False, "Features: asimd bf16", False),
        ("w4a16", True, "flags: avx2", False),
        ("w8a8", False, "flags: avx2", False),
    ],
)
def test_four_bits_that_vllm_cannot_compute_here_are_told_of(
    scheme: str, gpus: bool, cpuinfo: str, told: bool
) -> None:
    remark = not_served_here(choose(scheme, SMOLLM2), gpus=gpus, cpuinfo=cpuinfo)
    assert ("has no AVX-512" in (remark or "")) is told
