"""Which ids came before, also where there are more than are looked at at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.batch import digests
from shoal.batch.digests import Bits, Digests


@pytest.fixture(params=[50_000, 7], ids=["one pass", "many passes"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_AT_ONCE", request.param)
    monkeypatch.setattr(digests, "_HELD", 240)  # ten of them, so that most are in files


def numbers(found: Bits, most: int) -> list[int]:
    return [number for number in range(most) if number in found]


@pytest.mark.usefixtures("at_once")
def test_ids_that_came_before_are_found_wherever_they_were(tmp_path: Path):
    with Digests(tmp_path) as ids:
        for number in range(1, 3001):
            ids.add(f"r{number % 2990}", number)
        assert numbers(ids.repeated(), 3100) == list(range(2991, 3001))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("at_once")
def test_only_those_count_that_are_known(tmp_path: Path):
    with Digests(tmp_path) as ids:
        for number in range(0, 3000, 2):
            ids.add(f"r{number}", 0)
        ids.add("r0", 0)
        for number in range(1, 3000):
            ids.add(f"r{number}", number)
        ids.add("r7", 3000)  # twice, and not known
        found = ids.repeated(known=0)
        assert numbers(found, 3100) == list(range(2, 3000, 2))
        assert found.count == 1499


def test_bits_say_what_is_new():
    bits = Bits()
    assert bits.add(5_000_000)
    assert not bits.add(5_000_000)
    assert bits.add(0)
    assert (0 in bits, 1 in bits, 5_000_000 in bits, 9_999_999 in bits) == (True, False, True, False)
    assert bits.count == 2
