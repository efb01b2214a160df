"""What a model's ``config.json`` says of its shape. Pure: the parsed file in, an `Architecture` out.

The names of settings, the order in which they are tried and their defaults are those of vLLM
(``transformers_utils/model_arch_config_convertor.py``, ``config/model.py``), because vLLM will read the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.models.errors import ModelError
from shoal.models.quantization import Quantization, quantization

MLA_TYPES = frozenset(
    {
        *("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "kimi_linear", "longcat_flash"),
        *("glm_moe_dsa", "glm4_moe_lite", "pangu_ultra_moe", "axk1", "bailing_hybrid"),
    }
)
"""Model types whose attention vLLM runs as multi-head latent attention when they have a ``kv_lora_rank``."""

_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
_ALREADY_SCALED = frozenset(
    {"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope"}
)
_DEFAULT_LENGTH = 2048  # what vLLM takes when a configuration names none
_SLIDING = frozenset({"sliding_attention", "chunked_attention"})
_STATELESS = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
_TIED = frozenset(
    {"gemma", "gemma2", "gemma3_text", "gemma3", "bert"}
)  # where the configuration does not say
_ENCODERS = ("Bert", "Roberta", "RoBERTa", "MPNet", "ModernBert")


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a model.

    Attributes:
        name: the class that vLLM runs it with, ``LlamaForCausalLM``.
        model_type: ``llama``.
        layers: hidden layers.
        hidden: width of the hidden state.
        intermediate: width of a dense layer's MLP.
        heads: attention heads.
        kv_heads: key and value heads.
        head_dim: width of a head; with `latent` that of the cached vector.
        latent: attention is MLA: a layer caches one vector of `head_dim` per token, whatever the heads.
        vocab: size of the vocabulary.
        max_len: the longest request in tokens if nothing else is asked for.
        dtype: of the weights, ``bfloat16``.
        tied: the output projection is the embedding once more.
        windows: per layer the tokens it keeps: None for all, 0 where a layer keeps no keys and values at all.
        experts: routed experts of a MoE layer, 0 for a dense model.
        experts_per_token: of these, how many compute a token.
        expert_width: width of a routed expert's MLP.
        quantization: how the checkpoint is quantised, None where it is not.
    """

    name: str
    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_len: int
    dtype: str
    latent: bool = False
    tied: bool = False
    windows: tuple[int | None, ...] = ()
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    quantization: Quantization | None = None

    @property
    def caches(self) -> bool:
        """Whether it keeps keys and values at all: an encoder does not."""
        return any(window != 0 for window in self.windows)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that describes the language model: multimodal ones have it inside."""
    for key in ("text_config", "llm_config", "language_config"):
        inner = config.get(key)
        if isinstance(inner, Mapping):
            return inner
    return config


def parse(config: Mapping[str, Any], longest: int | None = None) -> Architecture:
    """Return the architecture that a ``config.json`` describes.

    Args:
        config: the parsed file.
        longest: what the tokenizer's configuration allows (``model_max_length``), which vLLM honours too.

    Raises:
        ModelError: a number that vLLM needs is missing or is none.
    """
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else model_type
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers")
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    heads = _number(text, "num_attention_heads", "n_head")
    kv_heads = _number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv", default=heads)
    latent = model_type in MLA_TYPES and bool(text.get("kv_lora_rank"))
    head_dim = _number(text, "head_dim", default=0) or hidden // heads
    if latent:
        head_dim = _number(text, "kv_lora_rank") + _number(text, "qk_rope_head_dim", default=0)
    intermediate = _number(text, "intermediate_size", "n_inner", "moe_intermediate_size", default=4 * hidden)
    experts = _number(
        text, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", default=0
    )
    return Architecture(
        name=name,
        model_type=model_type,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_number(text, "vocab_size"),
        max_len=_max_len(config, text, longest),
        dtype=_dtype(config, text),
        latent=latent,
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", model_type in _TIED))),
        windows=_windows(name, text, model_type, layers),
        experts=experts,
        experts_per_token=_number(text, "num_experts_per_tok", "moe_top_k", default=1) if experts else 0,
        expert_width=_number(text, "moe_intermediate_size", default=intermediate) if experts else 0,
        quantization=quantization(config.get("quantization_config") or text.get("quantization_config")),
    )


def _number(text: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """Return the first of some settings that is given.

    Raises:
        ModelError: none is given and there is no default, or it is no whole number.
    """
    for name in names:
        value = text.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"config.json: `{name}` is {value!r}, which is no whole number")
        if value == 0 and default is None:
            break
        return value
    if default is None:
        raise ModelError(f"config.json has no `{names[0]}`, which vLLM needs")
    return default


def _max_len(config: Mapping[str, Any], text: Mapping[str, Any], longest: int | None) -> int:
    lengths = [v for key in _LENGTHS if isinstance(v := text.get(key), int) and v > 0]
    derived = min(lengths) if lengths else _DEFAULT_LENGTH
    if longest is not None:
        derived = min(derived, longest)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = str(rope.get("rope_type") or rope.get("type") or "default") if isinstance(rope, Mapping) else ""
    if kind == "longrope" and isinstance(config.get("original_max_position_embeddings"), int):
        return int(config["original_max_position_embeddings"])
    factor = rope.get("factor") if isinstance(rope, Mapping) else None
    scaled = kind not in _ALREADY_SCALED and "gemma3" not in str(config.get("model_type"))
    return int(derived * factor) if scaled and isinstance(factor, int | float) else derived


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    for source in (config, text):
        for key in ("dtype", "torch_dtype"):
            if isinstance(source.get(key), str):
                return str(source[key]).removeprefix("torch.")
    return "float32"


def _windows(name: str, text: Mapping[str, Any], model_type: str, layers: int) -> tuple[int | None, ...]:
    """Return per layer how many tokens' keys and values it keeps."""
    if any(name.startswith(encoder) for encoder in _ENCODERS):
        return (0,) * layers
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    size = window if isinstance(window, int) and text.get("use_sliding_window", True) else None
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(0 if kind in _STATELESS else size if kind in _SLIDING else None for kind in kinds)
    every = text.get("full_attention_interval")  # Qwen3-Next: the others are linear attention
    if isinstance(every, int) and every > 1:
        return tuple(None if (i + 1) % every == 0 else 0 for i in range(layers))
    # Before `layer_types` was written into every configuration, these two had their pattern in the code.
    pattern = text.get("sliding_window_pattern") or {"gemma2": 2, "gemma3_text": 6, "gemma3": 6}.get(
        model_type
    )
    if isinstance(pattern, int) and pattern > 1:
        return tuple(None if (i + 1) % pattern == 0 else size for i in range(layers))
    return (size,) * layers
