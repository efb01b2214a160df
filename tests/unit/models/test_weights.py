from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.models.weights import Layer, Weights, rank_bytes, stage_layers
from support.models import profile

SIZES = st.integers(0, 10**9)
LAYERS = st.lists(st.builds(Layer, SIZES, SIZES, SIZES, SIZES), min_size=1, max_size=40)


def weights(layers: list[Layer], embedding: int, head: int, tied: bool) -> Weights:
    return Weights(
        layers=tuple(layers),
        embedding=embedding,
        head=0 if tied else head,
        tied=tied,
        parameters=1,
        source="config.json",
    )


@given(st.integers(1, 200), st.data())
def test_every_layer_is_on_one_stage_and_stages_differ_by_one(layers: int, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, layers))
    counts = stage_layers(layers, stages)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1
    assert counts[-1] == min(counts)


WEIGHTS = st.builds(weights, LAYERS, SIZES, SIZES, st.booleans())


@given(WEIGHTS, st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 8]), st.data())
def test_all_ranks_together_hold_the_model_and_one_holds_no_more_than_it(
    whole: Weights, tensor: int, kv_heads: int, data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(whole.layers)))
    ranks = rank_bytes(whole, tensor, stages, kv_heads)
    assert len(ranks) == stages
    assert sum(ranks) * tensor >= whole.total
    assert max(ranks) <= whole.total + len(whole.layers) * 4 + 8
    assert rank_bytes(whole, 1, 1, kv_heads) == (whole.total,)


def test_key_value_heads_are_repeated_beyond_their_number() -> None:
    llama = profile("Llama-3.3-70B")
    kv = sum(layer.kv for layer in llama.weights.layers)
    (eight,) = rank_bytes(llama.weights, 8, 1, 8)
    (sixteen,) = rank_bytes(llama.weights, 16, 1, 8)
    assert sixteen > llama.weights.total / 16 + kv / 16 * 0.99
    assert eight == pytest.approx(llama.weights.total / 8, rel=1e-3)


def test_a_last_stage_needs_its_own_copy_of_a_tied_embedding() -> None:
    tied = weights([Layer(shard=10)] * 4, 100, 0, tied=True)
    assert rank_bytes(tied, 1, 2, 1) == (120, 120)


def test_data_parallel_ranks_share_the_experts_and_nothing_else() -> None:
    moe = weights([Layer(shard=80, experts=800)], 0, 0, tied=False)
    assert rank_bytes(moe, 2, 1, 8) == (440,)
    assert rank_bytes(moe, 2, 1, 8, data=4) == (140,)
