"""Sizes computed from config.json alone."""

from __future__ import annotations

import pytest

from shoal.models.architecture import parse
from shoal.models.errors import ModelError
from shoal.models.parameters import computed
from support.models import profile, shape


@pytest.mark.parametrize(
    ("name", "published"),
    [  # parameters as the models' own pages tell them
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.3-70B", 70_553_706_496),
        ("Qwen3-32B", 32_762_123_264),
        ("Mixtral-8x7B", 46_702_792_704),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("DeepSeek-V3", 671_026_419_200),
    ],
)
def test_parameters_are_those_that_are_published(name: str, published: int) -> None:
    assert profile(name).weights.parameters == published


def test_a_16_bit_model_takes_two_bytes_per_parameter_whatever_it_was_stored_in() -> None:
    for dtype in ("bfloat16", "float16", "float32"):
        assert profile("Llama-3.3-70B", torch_dtype=dtype).weights.total == 2 * 70_553_706_496


def test_dtype_float32_takes_four() -> None:
    config = shape("SmolLM2-1.7B")
    assert computed(config, parse(config), "float32").total == 4 * 1_711_376_384


def test_quantisation_leaves_embeddings_and_norms_as_they_are() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    four, full = profile("Llama-3.3-70B", quantization_config=awq).weights, profile("Llama-3.3-70B").weights
    assert (four.embedding, four.head, four.parameters) == (full.embedding, full.head, full.parameters)
    assert 39e9 < four.total < 40e9  # published AWQ checkpoints of it have 39.8 GB


def test_deepseek_v3_has_the_size_of_its_fp8_checkpoint() -> None:
    # 688.6 GB on the hub with the draft layer (14 billion parameters), which vLLM does not load by itself.
    assert 672e9 < profile("DeepSeek-V3").weights.total < 675e9


def test_mxfp4_is_for_experts_only() -> None:
    config = shape(
        "Mixtral-8x7B", quantization_config={"quant_method": "mxfp4"}, intermediate_size=1024, hidden_size=512
    )
    four, full = (
        computed(config, parse(config)),
        profile("Mixtral-8x7B", intermediate_size=1024, hidden_size=512).weights,
    )
    assert four.layers[0].kv == full.layers[0].kv
    assert four.layers[0].experts == pytest.approx(full.layers[0].experts * 4.25 / 16)


def test_a_kind_that_cannot_be_computed_is_refused_with_what_helps() -> None:
    config = shape("Llama-3.1-8B", model_type="jamba")
    with pytest.raises(ModelError, match=r"type jamba cannot be computed .* get its \*.safetensors"):
        computed(config, parse(config))
    nested = {"model_type": "llava", "text_config": shape("Llama-3.1-8B")}
    with pytest.raises(ModelError, match="several modalities"):
        computed(nested, parse(nested))
