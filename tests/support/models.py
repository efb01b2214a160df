"""Models for tests of placement: shapes without weights, and small checkpoints without meaning."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.models.architecture import parse
from shoal.models.parameters import computed
from shoal.models.profile import Profile

SHAPES = Path(__file__).parents[2] / "examples" / "plans" / "models"
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1, "I64": 8}


def shape(name: str, **changes: Any) -> dict[str, Any]:
    """Return the config.json of a model under examples/plans/models, with some settings changed."""
    content: dict[str, Any] = json.loads((SHAPES / name / "config.json").read_text())
    return content | changes


def profile(name: str, **changes: Any) -> Profile:
    """Return the profile of such a model."""
    config = shape(name, **changes)
    arch = parse(config)
    return Profile(arch, computed(config, arch))


def write_safetensors(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of zeros: name -> (dtype, shape)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, dimensions) in tensors.items():
        size = math.prod(dimensions) * _WIDTHS[dtype]
        header[name] = {"dtype": dtype, "shape": list(dimensions), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def llama_tensors(config: Mapping[str, Any], dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of the checkpoint of a Llama of this shape."""
    h, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = config["num_key_value_heads"] * (h // heads)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": (dtype, (config["vocab_size"], h)),
        "model.norm.weight": (dtype, (h,)),
    }
    if not config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = (dtype, (config["vocab_size"], h))
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        for name, size in {
            "self_attn.q_proj": (h, h),
            "self_attn.k_proj": (kv, h),
            "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (inner, h),
            "mlp.up_proj": (inner, h),
            "mlp.down_proj": (h, inner),
            "input_layernorm": (h,),
            "post_attention_layernorm": (h,),
        }.items():
            tensors[f"{at}.{name}.weight"] = (dtype, size)
    return tensors
