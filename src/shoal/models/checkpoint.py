"""From the tensors of a checkpoint to what vLLM will hold of them, layer by layer. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from shoal.models.architecture import Architecture
from shoal.models.parameters import loaded_bytes
from shoal.models.safetensors import FLOATS, Tensor
from shoal.models.weights import Layer, Weights

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.")
_TOWERS = re.compile(r"(?:^|\.)(?:vision\w*|visual|audio\w*|multi_modal_projector|mm_projector|mtp)\.")
_KV = re.compile(
    r"\.(?:k_proj|v_proj|key|value)\.(?:weight|qweight|weight_packed|weight_scale|scales|qzeros)"
)
_WHOLE = re.compile(r"norm|LayerNorm|\.(?:q_a_proj|kv_a_proj_with_mqa|gate|router|shared_expert_gate)\.")
_EXPERTS = re.compile(r"\.experts\.")
_EMBEDDING = re.compile(r"(?:embed_tokens|word_embeddings|wte|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|output|embed_out)\.weight$")
# Numbers that are packed into wider ones, as most 4-bit formats do: stored dtype -> bits of a stored number.
_PACKED = {"I32": 32, "U8": 8, "I8": 8}


def weights_of(tensors: Iterable[Tensor], arch: Architecture, asked_dtype: str | None = None) -> Weights:
    """Return the weights of a checkpoint.

    What vLLM does not load is left out: layers beyond the model's own (draft layers for speculative decoding), and an
    output projection that is stored although it is the embedding. Unquantised numbers count as wide as vLLM loads
    them, which for a float32 checkpoint is half.

    Args:
        tensors: all tensors of all its files.
        arch: the model's shape.
        asked_dtype: the engine's ``--dtype``, None for auto.
    """
    width = loaded_bytes(arch.dtype, asked_dtype)
    shard, kv, whole, experts = ([0] * arch.layers for _ in range(4))
    embedding = head = other = parameters = 0
    for tensor in tensors:
        plain = tensor.dtype in FLOATS and not (arch.quantization and "scale" in tensor.name)
        size = tensor.elements * width if plain else tensor.stored
        found = _LAYER.search(tensor.name)
        if found and not _TOWERS.search(tensor.name[: found.start() + 1]):
            index = int(found[1])
            if index >= arch.layers:
                continue
            name = tensor.name
            into = (
                experts
                if _EXPERTS.search(name)
                else whole
                if _WHOLE.search(name)
                else kv
                if _KV.search(name)
                else shard
            )
            into[index] += size
        elif _EMBEDDING.search(tensor.name):
            embedding += size
        elif _HEAD.search(tensor.name):
            if arch.tied:
                continue
            head += size
        else:
            other += size
        parameters += _parameters(tensor, arch)
    return Weights(
        layers=tuple(Layer(*sizes) for sizes in zip(shard, kv, whole, experts, strict=True)),
        embedding=embedding,
        head=head,
        tied=arch.tied,
        other=other,
        parameters=parameters,
        source="safetensors",
    )


def _parameters(tensor: Tensor, arch: Architecture) -> int:
    """Return how many weights of the model a tensor stands for."""
    name = tensor.name
    if arch.quantization is None:
        return tensor.elements if tensor.dtype in FLOATS else 0
    if re.search(r"scale|zeros|g_idx|absmax|quant_map|quant_state|weight_shape", name):
        return 0
    bits = _PACKED.get(tensor.dtype)
    return tensor.elements if bits is None else round(tensor.elements * bits / int(arch.quantization.bits))
