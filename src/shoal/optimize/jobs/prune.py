"""Prunes structure: whole layers, MLP channels, groups of attention heads. What is left is a smaller, dense model.

Importance is measured on text, not on weights alone:

- a layer's by how far it turns the hidden states, 1 - cos(in, out), averaged over tokens ("Block Influence", Men et al.
  2024, https://arxiv.org/abs/2403.03853), measured anew after each removal;
- a channel's and a head's by what it adds to the residual stream: the mean size of its activation times the norm of the
  weights behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from shoal.optimize.jobs.common import JobError, Report, blocks, load, perplexity, save, tokenizer_of

_HELD_OUT = 8  # rows that perplexity is told of
_LAYER_ROWS = 4  # rows that layers are judged by, again after each that goes


def run(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """Prune and save.

    Args:
        given: ``model``, ``out``, ``layers`` (how many go), ``mlp`` and ``heads`` (shares that go), ``text``,
            ``samples``, ``length``, ``seed``.
        report: hears how far it is.
    """
    torch.manual_seed(given["seed"])
    report("loads the model")
    model = load(given["model"])
    tokenizer = tokenizer_of(given["model"])
    about = {"length": given["length"], "seed": given["seed"]}
    rows = blocks(tokenizer, given["text"], held_out=False, count=given["samples"], **about)
    held_out = blocks(tokenizer, given["text"], held_out=True, count=_HELD_OUT, **about)
    before = sum(p.numel() for p in model.parameters())
    report("measures perplexity")
    first = perplexity(model, held_out)
    gone = remove_layers(model, rows, given["layers"], report)
    heads = int(model.config.num_key_value_heads * given["heads"])
    channels = kept_channels(model.config.intermediate_size, given["mlp"])
    if heads or channels < model.config.intermediate_size:
        model = narrow(model, rows, heads, channels, report)
    report("measures perplexity")
    last = perplexity(model, held_out)
    report("saves")
    save(model, given["model"], given["out"])
    config = model.config
    return {
        "parameters": [before, sum(p.numel() for p in model.parameters())],
        "perplexity": [first, last],
        "removed_layers": gone,
        "left": {
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "mlp": config.intermediate_size,
        },
    }


def kept_channels(size: int, share: float) -> int:
    """Return how many of `size` MLP channels stay when a share goes: a multiple of 64, as kernels like it."""
    kept = round(size * (1 - share))
    return max(64, round(kept / 64) * 64) if size % 64 == 0 and size > 64 else max(1, kept)


def remove_layers(model: Any, rows: Tensor, count: int, report: Report) -> list[int]:
    """Remove the `count` layers that turn the hidden states least, one by one; return the places they had."""
    layers = model.model.layers
    places = list(range(len(layers)))
    gone = []
    for done in range(count):
        report("removes layers", done, count)
        influence = _influence(model, rows[:_LAYER_ROWS])
        least = min(range(len(influence)), key=influence.__getitem__)
        gone.append(places.pop(least))
        del model.model.layers[least]
        _renumber(model)
    return sorted(gone)


def keep_layers(model: Any, keep: list[int]) -> None:
    """Leave only the layers at these places."""
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in keep)
    _renumber(model, keep)


def _renumber(model: Any, keep: list[int] | None = None) -> None:
    config = model.config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:  # per layer full or sliding attention; equal in all models this is for
        config.layer_types = [kinds[i] for i in keep] if keep else kinds[: len(model.model.layers)]
    config.num_hidden_layers = len(model.model.layers)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index  # where its keys and values are in the cache


def _influence(model: Any, rows: Tensor) -> list[float]:
    """Return per layer the mean of 1 - cos(in, out)."""
    sums = [0.0] * len(model.model.layers)

    def passed(index: int) -> Callable[..., None]:
        def hook(_: Any, given: Any, result: Any) -> None:
            after = result[0] if isinstance(result, tuple) else result
            sums[index] += float(1 - torch.cosine_similarity(given[0], after, dim=-1).mean())

        return hook

    handles = [layer.register_forward_hook(passed(i)) for i, layer in enumerate(model.model.layers)]
    _read(model, rows)
    for handle in handles:
        handle.remove()
    return [total / len(rows) for total in sums]


def _sizes(model: Any, rows: Tensor, report: Report) -> tuple[list[Tensor], list[Tensor]]:
    """Return per layer the mean size of what goes into the MLP's and the attention's output projection, per channel."""
    layers = model.model.layers
    mlp: list[Any] = [0.0] * len(layers)
    attention: list[Any] = [0.0] * len(layers)

    def watch(sums: list[Any], index: int) -> Callable[..., None]:
        def hook(_: Any, given: Any) -> None:
            sums[index] = sums[index] + given[0].abs().flatten(0, -2).mean(0)

        return hook

    handles = []
    for i, layer in enumerate(layers):
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(watch(mlp, i)))
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(watch(attention, i)))
    report("looks what channels and heads do")
    _read(model, rows)
    for handle in handles:
        handle.remove()
    return mlp, attention


def _read(model: Any, rows: Tensor) -> None:
    with torch.inference_mode():
        for row in rows:
            model.model(input_ids=row[None].to(model.device), use_cache=False)


def narrow(model: Any, rows: Tensor, heads: int, channels: int, report: Report) -> Any:
    """Return a model with `heads` key/value heads less (and the query heads that use them), and `channels` in its MLPs.

    Raises:
        JobError: nothing would be left.
    """
    config = model.config
    kv_heads, group = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    if heads >= kv_heads:
        raise JobError(
            f"of {kv_heads} key/value heads at least one must stay; take a lower share with --heads"
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    mlp, attention = _sizes(model, rows, report)
    smaller = copy.deepcopy(config)
    smaller.head_dim = size
    smaller.num_key_value_heads = kv_heads - heads
    smaller.num_attention_heads = (kv_heads - heads) * group
    smaller.intermediate_size = channels
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for i, layer in enumerate(model.model.layers):
        at = f"model.layers.{i}."
        down = layer.mlp.down_proj.weight.detach()
        best = (mlp[i] * down.norm(dim=0)).topk(channels).indices.sort().values
        _take(weights, at + "mlp.gate_proj", best, 0)
        _take(weights, at + "mlp.up_proj", best, 0)
        _take(weights, at + "mlp.down_proj", best, 1)
        out = layer.self_attn.o_proj.weight.detach()
        value = (attention[i] * out.norm(dim=0)).view(kv_heads, group * size).sum(1)
        stay = value.topk(kv_heads - heads).indices.sort().values
        keys = _spread(stay, size)
        queries = _spread(stay, group * size)
        _take(weights, at + "self_attn.k_proj", keys, 0)
        _take(weights, at + "self_attn.v_proj", keys, 0)
        _take(weights, at + "self_attn.q_proj", queries, 0)
        _take(weights, at + "self_attn.o_proj", queries, 1)
    made = transformers.AutoModelForCausalLM.from_config(smaller, dtype=torch.float32)
    made.load_state_dict(weights)
    made.generation_config = model.generation_config
    return made.eval().to(model.device)


def _spread(places: Tensor, width: int) -> Tensor:
    """Return the rows of blocks of `width` rows."""
    return (places[:, None] * width + torch.arange(width, device=places.device)).flatten()


def _take(weights: dict[str, Tensor], name: str, places: Tensor, dim: int) -> None:
    weights[f"{name}.weight"] = weights[f"{name}.weight"].index_select(dim, places)
    if dim == 0 and f"{name}.bias" in weights:
        weights[f"{name}.bias"] = weights[f"{name}.bias"].index_select(0, places)
