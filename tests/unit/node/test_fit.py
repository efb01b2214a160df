"""The arithmetic of an engine's memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engine.gpu import Gpu
from shoal.node.engine_options import EngineOptions
from shoal.node.fit import GIB, Fit, cpu_fit, gpu_fit
from support.models import profile

LLAMA_8B, LLAMA_70B, DEEPSEEK = (profile(n) for n in ("Llama-3.1-8B", "Llama-3.3-70B", "DeepSeek-V3"))


def gpus(count: int, memory: float, name: str = "GPU") -> list[Gpu]:
    size = int(memory * GIB)
    return [Gpu(index=i, uuid=f"GPU-{i}", name=name, total=size, free=size) for i in range(count)]


def fit(model: str, count: int, memory: float, **options: object) -> Fit:
    models = {"8b": LLAMA_8B, "70b": LLAMA_70B, "v3": DEEPSEEK}
    found = gpu_fit(models[model], EngineOptions(**options), gpus(count, memory))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_parts_make_up_the_share_that_vllm_may_take() -> None:
    one = fit("8b", 1, 24)
    assert one.budget == int(24 * GIB * 0.92)
    assert one.weights == LLAMA_8B.weights.total
    assert one.weights + one.overhead + one.cache == one.budget


def test_a_model_whose_longest_request_does_not_fit_is_not_held() -> None:
    assert fit("8b", 1, 24).verdict == "cache"  # 131072 tokens x 128 KiB = 16 GiB
    assert fit("8b", 1, 24, max_len=16384).verdict == "fits"
    assert fit("8b", 1, 16).verdict == "weights"
    assert fit("8b", 1, 40).verdict == "fits"


def test_the_longest_length_that_fits_is_found() -> None:
    best = fit("8b", 1, 24, max_len=-1)
    assert best.verdict == "fits"
    assert fit("8b", 1, 24, max_len=best.max_len).verdict == "fits"
    assert fit("8b", 1, 24, max_len=best.max_len + 16).verdict == "cache"


@pytest.mark.parametrize(
    ("model", "count", "memory", "verdict"),
    [  # what every operator of these models knows
        ("70b", 1, 80, "weights"),
        ("70b", 2, 80, "cache"),
        ("70b", 4, 80, "fits"),
        ("70b", 8, 80, "fits"),
        ("70b", 2, 141, "fits"),
        ("v3", 8, 80, "weights"),
        ("v3", 8, 141, "fits"),
        ("v3", 16, 80, "fits"),
    ],
)
def test_well_known_cases(model: str, count: int, memory: float, verdict: str) -> None:
    assert fit(model, count, memory).verdict == verdict


def test_a_smaller_cache_type_holds_more() -> None:
    assert fit("8b", 1, 24, cache_dtype="fp8").request * 2 == fit("8b", 1, 24).request


def test_pipeline_stages_share_layers_and_cache() -> None:
    two, one = fit("70b", 8, 80, tensor=4, stages=2), fit("70b", 4, 80)
    assert two.weights < one.weights * 0.55
    assert two.request * 2 == one.request
    assert two.tokens > 2 * one.tokens


def test_data_parallel_ranks_have_a_cache_each() -> None:
    one = fit("8b", 1, 80)
    assert fit("8b", 4, 80, data=4).tokens == 4 * one.tokens


def test_gpus_that_do_not_tell_their_memory_are_not_judged() -> None:
    unknown = Gpu(index=0, uuid="GPU-0", name="GB10", total=None, free=None)
    assert gpu_fit(LLAMA_8B, EngineOptions(), [unknown]) is None


def test_on_a_cpu_the_cache_is_as_large_as_it_is_told() -> None:
    small = profile("SmolLM2-1.7B")
    fits = cpu_fit(small, EngineOptions(), 32 * GIB, 8 * GIB)
    assert (fits.verdict, fits.cache) == ("fits", 8 * GIB)
    assert fits.tokens == 8 * GIB // (192 * 1024)
    assert cpu_fit(small, EngineOptions(), 12 * GIB, 8 * GIB).verdict == "weights"
    assert cpu_fit(small, EngineOptions(), 32 * GIB, GIB).verdict == "cache"


SIZES = st.sampled_from([1, 2, 4, 8])


@given(SIZES, SIZES, st.floats(8, 200), st.floats(0, 100), st.integers(1, 131072))
def test_more_memory_never_makes_a_model_fit_less(
    tensor: int, stages: int, memory: float, more: float, length: int
) -> None:
    options = EngineOptions(tensor=tensor, stages=stages, max_len=length, batched_tokens=2048, sequences=256)
    small, large = (gpu_fit(LLAMA_70B, options, gpus(tensor * stages, m)) for m in (memory, memory + more))
    assert small is not None
    assert large is not None
    assert large.cache >= small.cache
    assert large.tokens >= small.tokens
    assert not (small.verdict == "fits" and large.verdict != "fits")
    assert small.roomy <= (small.verdict == "fits")


@given(st.floats(20, 200), st.integers(1, 131072))
def test_more_gpus_hold_at_least_as_many_tokens(memory: float, length: int) -> None:
    options = EngineOptions(max_len=length, batched_tokens=2048, sequences=256)
    held = [gpu_fit(LLAMA_70B, options, gpus(n, memory)) for n in (2, 4, 8)]
    tokens = [h.tokens for h in held if h is not None]
    assert tokens == sorted(tokens)
