from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.models.architecture import parse
from shoal.models.errors import ModelError
from support.models import shape


def test_a_plain_model() -> None:
    arch = parse(shape("Llama-3.3-70B"))
    assert (arch.name, arch.layers, arch.heads, arch.kv_heads, arch.head_dim) == (
        "LlamaForCausalLM",
        80,
        64,
        8,
        128,
    )
    assert (arch.max_len, arch.dtype, arch.windows) == (131072, "bfloat16", (None,) * 80)


def test_head_dim_is_the_width_by_heads_where_it_is_not_given() -> None:
    assert parse(shape("Llama-3.1-8B")).head_dim == 128
    assert parse(shape("Llama-3.1-8B", head_dim=None)).head_dim == 128
    assert parse(shape("Qwen3-32B")).head_dim == 128  # 5120 / 64 would be 80


def test_latent_attention_caches_one_vector() -> None:
    arch = parse(shape("DeepSeek-V3"))
    assert (arch.latent, arch.head_dim) == (True, 576)
    assert (arch.experts, arch.experts_per_token, arch.expert_width) == (256, 8, 2048)


def test_a_multimodal_model_is_its_language_model() -> None:
    arch = parse(
        {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": shape("Llama-3.1-8B")}
    )
    assert (arch.name, arch.layers) == ("Mistral3ForConditionalGeneration", 32)


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, 131072),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 262144),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 524288),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 131072),
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": None}, 2048),
    ],
)
def test_the_longest_request_is_what_vllm_derives(changes: dict[str, Any], longest: int) -> None:
    assert parse(shape("Llama-3.1-8B", **changes)).max_len == longest


def test_the_tokenizer_may_allow_less() -> None:
    assert parse(shape("Llama-3.1-8B"), 8192).max_len == 8192
    assert parse(shape("Llama-3.1-8B"), 10**6).max_len == 131072


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 4096}, (4096,) * 4),
        ({"sliding_window": 4096, "use_sliding_window": False}, (None,) * 4),
        (
            {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 2},
            (128, None, 128, None),
        ),
        ({"model_type": "gemma2", "sliding_window": 512}, (512, None, 512, None)),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, (512, 512, 512, None)),
        ({"layer_types": ["linear_attention", "full_attention"] * 2}, (0, None, 0, None)),
        ({"full_attention_interval": 4}, (0, 0, 0, None)),
        ({"architectures": ["BertModel"]}, (0,) * 4),
    ],
)
def test_which_layers_keep_what(changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert parse(shape("Llama-3.1-8B", num_hidden_layers=4, **changes)).windows == windows


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no `num_hidden_layers`"),
        (shape("Llama-3.1-8B", num_attention_heads=0), "no `num_attention_heads`"),
        (shape("Llama-3.1-8B", hidden_size="big"), "`hidden_size` is 'big', which is no whole number"),
        (shape("Llama-3.1-8B", vocab_size=-1), "`vocab_size` is -1"),
        (shape("Llama-3.1-8B", num_hidden_layers=True), "`num_hidden_layers` is True"),
    ],
)
def test_what_vllm_needs_and_is_not_there_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(config)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.floats(allow_nan=False)
    | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*shape("DeepSeek-V3"), "layer_types", "text_config", "sliding_window"]), JSON
    )
)
def test_whatever_a_file_holds_it_is_an_architecture_or_an_error_for_people(changes: dict[str, Any]) -> None:
    try:
        arch = parse(shape("DeepSeek-V3") | changes)
    except ModelError:
        return
    assert arch.layers > 0
    assert len(arch.windows) == arch.layers
