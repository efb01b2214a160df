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


PACKAGE = '''
class Last:
    """Always the last engine."""
    uses_load = False
    def __init__(self, seed):
        self.seed = seed
    def pick(self, engines, in_flight, ask):
        return len(engines) - 1

class NoPick:
    def __init__(self, seed):
        pass

def broken(seed):
    raise RuntimeError("no licence")
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with policies, installed as pip does it, in a directory of its own."""
    (tmp_path / "my_policies.py").write_text(PACKAGE)
    info = tmp_path / "my_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[shoal.policies]\nlast = my_policies:Last\nno_pick = my_policies:NoPick\n"
        "broken = my_policies:broken\nmissing = my_policies:Missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.users.cache_clear()
    yield tmp_path
    registry.users.cache_clear()


@pytest.mark.usefixtures("package")
def test_a_users_policy_is_found_by_its_entry_point():
    assert registry.known("last")
    assert "last" in registry.names()
    policy = registry.create("last", seed=7)
    assert policy.seed == 7
    engines = [EngineTarget(id=f"e{n}", slot=n, host="h", port=1) for n in range(4)]
    assert policy.pick(engines, (), ASK) == 3


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("broken", r"'broken' \(my_policies:broken\) cannot be made: RuntimeError: no licence"),
        ("missing", "cannot be made: AttributeError"),
        ("no_pick", "has no method `pick`"),
    ],
)
def test_a_users_policy_that_cannot_be_made_says_why(name, why):
    with pytest.raises(ValueError, match=why):
        registry.create(name)
