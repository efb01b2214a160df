from __future__ import annotations

from typing import Any

import pytest

from shoal.models.quantization import quantization


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        ({"num_bits": 4, "group_size": 64, "symmetric": True}, 4 + 16 / 64),
        ({"num_bits": 4, "group_size": 32, "symmetric": False}, 4 + (16 + 4) / 32),
        ({"num_bits": 8, "group_size": None, "symmetric": True}, 8),
    ],
)
def test_compressed_tensors_count_with_scales_and_zero_points(weights: dict[str, Any], bits: float) -> None:
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    found = quantization(config)
    assert found is not None
    assert (found.method, found.bits) == ("compressed-tensors", bits)
