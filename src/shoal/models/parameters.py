"""The size of a model's weights, computed from its ``config.json`` alone. Pure.

For planning before anything is downloaded. Exact for the model types below: the tests compare the count with what
Transformers builds. What is read from a checkpoint's headers is always preferred.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.models.architecture import Architecture, text_config
from shoal.models.errors import ModelError
from shoal.models.quantization import Quantization
from shoal.models.weights import Layer, Weights

KNOWN = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "olmo2", "granite"),
        *("gemma", "gemma2", "gemma3_text", "mixtral", "qwen2_moe", "qwen3_moe"),
        *("deepseek_v2", "deepseek_v3", "kimi_k2", "gpt_oss", "bert"),
    }
)
"""Model types whose weights can be computed from the configuration."""

_QKV_BIAS = frozenset({"qwen2", "qwen2_moe"})
_FOUR_NORMS = frozenset({"gemma2", "gemma3_text"})
_HEAD_NORMS = frozenset({"qwen3", "qwen3_moe", "gemma3_text"})
DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class _Counts(msgspec.Struct):
    """Parameters of a layer: `linear` and `experts` can be quantised, the others never are."""

    linear: int = 0
    experts: int = 0
    kv: int = 0
    whole_linear: int = 0
    plain: int = 0
    whole: int = 0


def loaded_bytes(dtype: str, asked: str | None = None) -> int:
    """Return the bytes of an unquantised weight once vLLM has loaded it: with ``--dtype auto`` float32 becomes 16 bits.

    Args:
        dtype: of the checkpoint, as its configuration tells.
        asked: the engine's ``--dtype``.
    """
    if asked in DTYPE_BYTES or asked in ("half", "float"):
        return 4 if asked == "float" else DTYPE_BYTES.get(str(asked), 2)
    return 2


def computed(config: Mapping[str, Any], arch: Architecture, asked_dtype: str | None = None) -> Weights:
    """Return the weights of the model that a configuration describes.

    Args:
        config: the parsed ``config.json``.
        arch: what `shoal.models.architecture.parse` made of it.
        asked_dtype: the engine's ``--dtype``, None for auto.

    Raises:
        ModelError: its kind is none of those that can be computed.
    """
    text = text_config(config)
    if arch.model_type not in KNOWN or text is not config:
        what = f"of type {arch.model_type or 'unknown'}" if text is config else "of several modalities"
        raise ModelError(
            f"the size of a model {what} cannot be computed from config.json alone: get its *.safetensors files "
            "(their headers are enough), or the *.safetensors.index.json beside them"
        )
    width = loaded_bytes(arch.dtype, asked_dtype)
    counts = [_layer(text, arch, i) for i in range(arch.layers)]
    embedding = arch.vocab * arch.hidden
    head = 0 if arch.tied else embedding
    other = arch.hidden  # the last norm
    if arch.model_type == "bert":
        positions = int(text.get("max_position_embeddings", 512)) + int(text.get("type_vocab_size", 2))
        head, other = 0, positions * arch.hidden + 2 * arch.hidden + arch.hidden * (arch.hidden + 1)
    parameters = sum(_total(c) for c in counts) + embedding + head + other
    return Weights(
        layers=tuple(_bytes(c, width, arch.quantization) for c in counts),
        embedding=embedding * width,
        head=head * width,
        tied=arch.tied,
        other=other * width,
        parameters=parameters,
        source="config.json",
    )


def _total(c: _Counts) -> int:
    return c.linear + c.experts + c.kv + c.whole_linear + c.plain + c.whole


def _bytes(c: _Counts, width: int, quant: Quantization | None) -> Layer:
    small = quant.bits / 8 if quant is not None else width
    rest = width if quant is None or quant.experts_only else small
    return Layer(
        shard=round(c.linear * rest) + c.plain * width,
        kv=round(c.kv * rest),
        whole=round(c.whole_linear * rest) + c.whole * width,
        experts=round(c.experts * small),
    )


def _layer(text: Mapping[str, Any], arch: Architecture, index: int) -> _Counts:
    c = _Counts()
    if arch.model_type == "bert":
        h, i = arch.hidden, arch.intermediate
        c.linear, c.kv, c.plain, c.whole = 2 * h * h + 2 * h * i, 2 * h * h, 4 * h + i + h, 4 * h
        return c
    if arch.latent:
        _latent_attention(text, arch, c)
    else:
        _attention(text, arch, c)
    c.whole += arch.hidden * (4 if arch.model_type in _FOUR_NORMS else 2)
    if arch.experts and _is_moe(text, arch, index):
        _experts(text, arch, c)
    else:
        c.linear += 3 * arch.hidden * arch.intermediate
        if text.get("mlp_bias"):
            c.plain += 2 * arch.intermediate + arch.hidden
    return c


def _attention(text: Mapping[str, Any], arch: Architecture, c: _Counts) -> None:
    queries, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    c.linear += 2 * arch.hidden * queries
    c.kv += 2 * arch.hidden * keys
    bias = bool(text.get("attention_bias", arch.model_type == "gpt_oss"))
    if arch.model_type in _QKV_BIAS or bias:
        c.plain += queries + 2 * keys
        c.whole += arch.hidden if arch.model_type not in _QKV_BIAS else 0
    if arch.model_type in _HEAD_NORMS:
        c.whole += 2 * arch.head_dim
    elif arch.model_type == "olmo2":
        c.whole += queries + keys
    elif arch.model_type == "gpt_oss":
        c.plain += arch.heads  # attention sinks


def _latent_attention(text: Mapping[str, Any], arch: Architecture, c: _Counts) -> None:
    nope, rope = int(text.get("qk_nope_head_dim", 0)), int(text.get("qk_rope_head_dim", 0))
    rank, value = int(text["kv_lora_rank"]), int(text.get("v_head_dim", 0))
    query = arch.heads * (nope + rope)
    if low := text.get("q_lora_rank"):
        c.whole_linear += arch.hidden * int(low)
        c.whole += int(low)
        c.linear += int(low) * query
    else:
        c.linear += arch.hidden * query
    c.whole_linear += arch.hidden * (rank + rope)
    c.whole += rank
    c.linear += rank * arch.heads * (nope + value) + arch.heads * value * arch.hidden


def _is_moe(text: Mapping[str, Any], arch: Architecture, index: int) -> bool:
    if index in (text.get("mlp_only_layers") or ()):
        return False
    step = text.get("decoder_sparse_step", 1) or 1
    if (index + 1) % int(step):
        return False
    frequency = text.get("moe_layer_freq", 1)
    every = frequency if isinstance(frequency, int) and frequency > 0 else 1
    return index >= int(text.get("first_k_dense_replace", 0)) and index % every == 0


def _experts(text: Mapping[str, Any], arch: Architecture, c: _Counts) -> None:
    width = arch.expert_width
    c.experts += arch.experts * 3 * arch.hidden * width
    c.whole += arch.hidden * arch.experts  # the router
    if arch.model_type == "gpt_oss":
        c.plain += arch.experts * (2 * width + arch.hidden)
        c.whole += arch.experts
    if arch.model_type in ("deepseek_v3", "kimi_k2"):
        c.whole += arch.experts  # the router's correction
    if shared := text.get("n_shared_experts"):
        c.linear += 3 * arch.hidden * width * int(shared)
    if shared := text.get("shared_expert_intermediate_size"):
        c.linear += 3 * arch.hidden * int(shared)
        c.whole += arch.hidden
