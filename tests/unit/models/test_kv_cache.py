from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.models.architecture import parse
from shoal.models.kv_cache import element_bytes, request_bytes
from support.models import profile, shape


def bytes_of(name: str, tokens: int, tensor: int = 1, stages: int = 1, **changes: object) -> tuple[int, ...]:
    arch = parse(shape(name, **changes))
    return request_bytes(arch, tokens, tensor=tensor, stages=stages, element=2, in_flight=2048)


def test_a_token_keeps_two_vectors_per_layer_and_head() -> None:
    assert bytes_of("Llama-3.1-8B", 16) == (16 * 128 * 1024,)  # 128 KiB a token, as everybody computes it
    assert bytes_of("Llama-3.3-70B", 16) == (16 * 320 * 1024,)


def test_tensor_parallel_ranks_share_the_heads_as_far_as_there_are_some() -> None:
    whole = bytes_of("Llama-3.3-70B", 4096)[0]
    assert bytes_of("Llama-3.3-70B", 4096, tensor=8) == (whole // 8,)
    assert bytes_of("Llama-3.3-70B", 4096, tensor=16) == (whole // 8,)


def test_a_latent_vector_is_on_every_rank() -> None:
    assert bytes_of("DeepSeek-V3", 16) == (16 * 61 * 576 * 2,)
    assert bytes_of("DeepSeek-V3", 16, tensor=8) == bytes_of("DeepSeek-V3", 16)


def test_stages_keep_their_own_layers() -> None:
    assert bytes_of("Llama-3.3-70B", 4096, stages=4) == (bytes_of("Llama-3.3-70B", 4096)[0] // 4,) * 4


def test_a_window_bounds_what_is_kept() -> None:
    full = bytes_of("Llama-3.1-8B", 100_000)[0]
    windowed = bytes_of("Llama-3.1-8B", 100_000, sliding_window=4096)[0]
    assert windowed == pytest.approx(full * (4096 + 2048) / 100_000, rel=0.01)
    mixed = bytes_of("Llama-3.1-8B", 100_000, sliding_window=4096, sliding_window_pattern=2)[0]
    assert mixed == pytest.approx((full + windowed) / 2, rel=0.001)


def test_an_encoder_keeps_nothing() -> None:
    assert bytes_of("Llama-3.1-8B", 512, architectures=["BertModel"]) == (0,)


def test_how_wide_a_cached_number_is() -> None:
    arch = profile("Llama-3.1-8B").architecture
    assert [element_bytes(arch, cache, None) for cache in (None, "auto", "fp8", "fp8_e5m2", "bfloat16")] == [
        *(2, 2, 1, 1, 2)
    ]
    assert element_bytes(arch, None, "float32") == 4


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.sampled_from([None, 128, 4096]))
def test_longer_requests_never_keep_less(tokens: int, more: int, window: int | None) -> None:
    assert bytes_of("Llama-3.1-8B", tokens + more, sliding_window=window) >= bytes_of(
        "Llama-3.1-8B", tokens, sliding_window=window
    )
