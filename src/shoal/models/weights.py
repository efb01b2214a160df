"""How large a model's weights are and how they divide over GPUs. Pure data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Layer(msgspec.Struct, frozen=True):
    """Bytes of one layer, by how tensor parallelism divides them.

    Attributes:
        shard: split evenly.
        kv: key and value projections: split too, but no finer than one head; from there on they are repeated.
        whole: every rank holds all of it: norms, routers, the down projections of MLA.
        experts: routed experts: split over data parallel ranks as well, with expert parallelism or without.
    """

    shard: int = 0
    kv: int = 0
    whole: int = 0
    experts: int = 0

    @property
    def total(self) -> int:
        """All of its bytes, once."""
        return self.shard + self.kv + self.whole + self.experts


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a model's weights as vLLM holds them.

    Attributes:
        layers: each hidden layer, in order.
        embedding: the input embedding: on the first pipeline stage, split by tensor parallelism.
        head: the output projection: on the last stage, split; 0 where it is the embedding once more.
        tied: the output projection is the embedding, so that a last stage of its own needs a copy.
        other: what is neither, such as a vision tower: on the first stage, taken as not split.
        parameters: number of parameters.
        source: where the sizes are from: the headers of the checkpoint, or computed from the configuration.
    """

    layers: tuple[Layer, ...]
    embedding: int
    head: int = 0
    tied: bool = False
    other: int = 0
    parameters: int
    source: Literal["safetensors", "config.json"]

    @property
    def total(self) -> int:
        """All bytes, once."""
        return sum(layer.total for layer in self.layers) + self.embedding + self.head + self.other


def stage_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Return how many layers each pipeline stage gets, as vLLM divides them (``distributed/utils.get_pp_indices``).

    The rest of an uneven division goes to the stages before the last one, which has the output projection.
    """
    each, rest = divmod(layers, stages)
    counts = [each] * stages
    for i in range(2, rest + 2):
        counts[-i] += 1
    return tuple(counts)


def rank_bytes(weights: Weights, tensor: int, stages: int, kv_heads: int, data: int = 1) -> tuple[int, ...]:
    """Return the bytes of weights that one rank of each pipeline stage holds.

    Args:
        weights: the model's.
        tensor: tensor parallel size.
        stages: pipeline parallel size; not more than there are layers.
        kv_heads: the model's key and value heads.
        data: data parallel size.
    """
    sizes = []
    start = 0
    kv_split = min(tensor, max(1, kv_heads))
    for stage, count in enumerate(stage_layers(len(weights.layers), stages)):
        mine = weights.layers[start : start + count]
        start += count
        size = sum(_ceil(x.shard, tensor) + _ceil(x.kv, kv_split) + x.whole for x in mine)
        size += sum(_ceil(x.experts, tensor * data) for x in mine)
        last = stage == stages - 1
        if stage == 0:
            size += _ceil(weights.embedding, tensor) + weights.other
        if last:
            size += _ceil(weights.head, tensor)
            if weights.tied and stage > 0:
                size += _ceil(weights.embedding, tensor)
        sizes.append(size)
    return tuple(sizes)


def _ceil(size: int, parts: int) -> int:
    return -(-size // parts)
