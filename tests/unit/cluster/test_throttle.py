from __future__ import annotations

from shoal.cluster.throttle import Throttle


def test_a_key_passes_once_per_period() -> None:
    throttle = Throttle(period=60)
    assert throttle.allow("a", 0)
    assert not throttle.allow("a", 59.9)
    assert throttle.allow("b", 59.9)
    assert throttle.allow("a", 60)
    assert not throttle.allow("a", 61)


def test_a_flood_of_keys_is_refused_and_does_not_grow_memory() -> None:
    throttle = Throttle(period=60, keys=10)
    assert sum(throttle.allow(str(n), 1) for n in range(10_000)) == 10
    assert len(throttle._passed) == 10
    assert throttle.allow("later", 62)
