from __future__ import annotations

from typing import Any

import pytest

from shoal.config.schema import Model
from shoal.node.engine_options import EngineOptions, engine_options


def options(args: Any, **more: Any) -> EngineOptions:
    return engine_options(Model(path="m", args=args, **more))


def test_without_arguments_they_are_those_of_vllm() -> None:
    plain = options({})
    assert plain == EngineOptions()
    assert (plain.utilization, plain.gpus, plain.split(4), plain.split(0)) == (0.92, None, (4, 1), (1, 1))


def test_both_forms_of_arguments_are_read() -> None:
    mapped = options({"tensor_parallel_size": 2, "pipeline-parallel-size": 3, "gpu_memory_utilization": 0.8})
    assert (mapped.tensor, mapped.stages, mapped.utilization, mapped.gpus, mapped.split(6)) == (
        2,
        3,
        0.8,
        6,
        (2, 3),
    )
    assert options(["-tp", "2", "--pipeline_parallel_size=3", "--gpu-memory-utilization", "0.8"]) == mapped


def test_data_parallel_engines_divide_their_gpus() -> None:
    moe = options({"data_parallel_size": 4, "enable_expert_parallel": True})
    assert (moe.gpus, moe.split(8), moe.split(4)) == (4, (2, 1), (1, 1))


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(4096, 4096), ("32k", 32000), ("32K", 32768), ("25.6k", 25600), ("auto", -1), (-1, -1), ("x", None)],
)
def test_lengths_are_read_as_vllm_reads_them(value: Any, tokens: int | None) -> None:
    assert options({"max_model_len": value}).max_len == tokens
    assert options(["--max-model-len", str(value)]).max_len == tokens


def test_auto_is_as_good_as_nothing() -> None:
    assert options({"dtype": "auto", "kv_cache_dtype": "auto"}) == EngineOptions()


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"quantization": "fp8"}, "--quantization"),
        (["-q", "awq"], "-q"),
        ({"cpu_offload_gb": 10}, "--cpu-offload-gb"),
        ({"speculative_config": {"model": "x"}}, "--speculative-config"),
    ],
)
def test_arguments_that_make_the_size_unknowable_are_named(args: Any, name: str) -> None:
    assert options(args).opaque == name


def test_the_size_of_the_cache_may_be_fixed() -> None:
    assert options({"kv_cache_memory_bytes": "4G"}).cache_bytes == 4 * 1024**3
    assert options({}, env={"VLLM_CPU_KVCACHE_SPACE": "6"}).cache_bytes == 6 * 1024**3
