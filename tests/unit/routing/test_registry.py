"""Policies by name."""

from __future__ import annotations

import pytest

from shoal.routing import registry
from shoal.routing.table import EngineTarget
from support.asks import ASK


@pytest.mark.parametrize("name", [name for name in registry.POLICIES if name != "power_of_two"])
def test_without_anything_to_go_by_every_policy_takes_turns(name):
    policy = registry.create(name, seed=3)
    engines = [EngineTarget(id=f"e{n}", slot=n, host="h", port=1) for n in range(4)]
    picks = [policy.pick(engines, [0] * 4 if policy.uses_load else (), ASK) for _ in range(8)]
    assert sorted(picks) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert picks[0] == 3, "turns start where the seed says"


def test_an_unknown_policy_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"astrology.*least_connections.*round_robin.*weighted_round_robin"):
        registry.create("astrology")
