from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engine.gpu import Gpu
from shoal.models.architecture import parse
from shoal.node.parallel import (
    alike,
    indices,
    kinds,
    nearest_split,
    split_problem,
    splits,
    tensor_problem,
    tensor_sizes,
)
from support.models import profile, shape

GIB = 1024**3
LLAMA = profile("Llama-3.3-70B").architecture


def gpu(index: int, name: str = "A", memory: int | None = 80) -> Gpu:
    total = None if memory is None else memory * GIB
    return Gpu(index=index, uuid=f"GPU-{index}", name=name, total=total, free=total)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (1, None),
        (8, None),
        (16, None),  # key and value heads are repeated
        (3, "its 64 attention heads do not divide by 3"),
        (128, "its 64 attention heads do not divide by 128"),
    ],
)
def test_heads_must_divide(tensor: int, problem: str | None) -> None:
    assert tensor_problem(LLAMA, tensor) == problem


def test_key_value_heads_divide_one_way_or_the_other() -> None:
    odd = parse(shape("Llama-3.1-8B", num_attention_heads=12, num_key_value_heads=6, intermediate_size=1200))
    assert tensor_problem(odd, 4) == "its 6 key-value heads neither divide by 4 nor divide 4"
    assert tensor_problem(odd, 12) is None


def test_mlps_must_divide() -> None:
    odd = parse(shape("Llama-3.1-8B", intermediate_size=11008 + 2))
    assert tensor_problem(odd, 4) == "its MLPs are 11010 wide, which does not divide by 4"
    assert tensor_problem(profile("DeepSeek-V3").architecture, 16) is None


def test_every_stage_needs_a_layer() -> None:
    assert split_problem(LLAMA, 1, 81) == "it has 80 layers, fewer than 81 pipeline stages"
    assert split_problem(LLAMA, 1, 80) is None


def test_the_nearest_split_is_told_in_words_that_can_be_pasted() -> None:
    assert nearest_split(LLAMA, 6) == (
        "`gpus_per_engine: 4` (tensor parallel 4, 2 of 6 GPUs idle), or "
        "`args: {tensor_parallel_size: 2, pipeline_parallel_size: 3}` over all 6"
    )


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 48), st.integers(1, 24))
def test_what_is_offered_works_and_nothing_that_works_is_left_out(
    heads: int, kv_heads: int, layers: int, gpus: int
) -> None:
    arch = parse(
        shape(
            "Llama-3.1-8B",
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            num_hidden_layers=layers,
            head_dim=64,
            intermediate_size=5040,
        )
    )
    assert 1 in tensor_sizes(arch, gpus)
    found = splits(arch, gpus)
    for tensor, stages in found:
        assert tensor * stages == gpus
        assert heads % tensor == 0
        assert stages <= layers
    every = [(t, gpus // t) for t in range(1, gpus + 1) if gpus % t == 0]
    assert set(found) == {s for s in every if split_problem(arch, *s) is None}
    assert "gpus_per_engine" in nearest_split(arch, gpus)


def test_gpus_are_alike_by_memory_and_of_a_kind_by_product_too() -> None:
    assert alike([gpu(0), gpu(1, "B", 81)])
    assert not alike([gpu(0), gpu(1, "A", 24)])
    assert alike([gpu(0, memory=None), gpu(1)])
    mixed = [gpu(0, "L4", 24), gpu(1, "A100"), gpu(2, "L4", 24), gpu(3, "H100")]
    assert [[g.index for g in kind] for kind in kinds(mixed)] == [[1], [3], [0, 2]]


def test_indices_are_written_as_people_do() -> None:
    assert [indices([gpu(i) for i in of]) for of in ([0], [0, 1], [3, 1, 2], [0, 2, 3])] == [
        *("0", "0, 1", "1-3", "0, 2, 3")
    ]
