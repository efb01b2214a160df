from __future__ import annotations

import math
from typing import Any

import pytest

from shoal.config.scalars import scalar_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8000", 8000),
        ("-5", -5),
        ("0x1F", 31),
        ("0o17", 15),
        ("0b11", 3),
        ("017", 17),  # YAML 1.2: no octal by a leading zero
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),  # YAML 1.2: text
        ("node1", "node1"),
        ("127.0.0.1", "127.0.0.1"),
        ("64MiB", "64MiB"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = scalar_value(text)
    assert found == value
    assert type(found) is type(value)


def test_a_number_too_long_to_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="too long to be held"):
        scalar_value("9" * 10_000)
