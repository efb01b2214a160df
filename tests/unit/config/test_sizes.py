from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1024, 1024),
        ("64MiB", 64 * 1024**2),
        ("10MB", 10 * 1000**2),
        ("1GiB", 1024**3),
        ("1.5 GiB", 3 * 1024**3 // 2),
        ("64kib", 64 * 1024),
        (" 7 b ", 7),
        ("2TB", 2 * 1000**4),
    ],
)
def test_sizes_are_bytes_or_text_with_a_unit(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", ["64", "MiB", "-1MiB", "1XiB", "1e3MB", "", True, None, 1.5, [1], "٣MiB", "1.5b"]
)
def test_anything_else_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match=r"size|bytes"):
        parse_size(written)


@given(st.integers(min_value=0, max_value=1024**5))
def test_a_formatted_size_means_the_same(size: int) -> None:
    text = format_size(size)
    assert parse_size(int(text) if text.isdigit() else text) == size


def test_the_largest_unit_without_a_remainder_is_used() -> None:
    assert [format_size(s) for s in (0, 1000, 1024, 64 * 1024**2, 1024**4)] == [
        "0",
        "1000",
        "1KiB",
        "64MiB",
        "1TiB",
    ]
