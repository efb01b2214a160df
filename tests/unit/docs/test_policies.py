"""What docs/policies.md shows must work as it stands."""

import re
import tomllib
from pathlib import Path

from shoal.routing import registry
from shoal.routing.table import EngineTarget
from support.asks import FakeAsk

TEXT = (Path(__file__).parents[3] / "docs/policies.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_every_policy_is_described():
    described = re.findall(r"^\| `([a-z_]+)`", TEXT, re.MULTILINE)
    assert sorted(described) == list(registry.POLICIES)


def test_the_policy_shown_works_and_fits_into_30_lines():
    source = block("python")
    assert source.count("\n") <= 30
    scope: dict[str, object] = {}
    exec(source, scope)
    policy = scope["LongShort"](7)  # type: ignore[operator]
    engines = tuple(EngineTarget(id=f"e{n}", slot=n, host="h", port=1) for n in range(4))
    long, short = FakeAsk(b"x" * 40_000), FakeAsk(b"x")
    assert {policy.pick(engines, [0] * 4, long) for _ in range(8)} == {0, 1}
    assert {policy.pick(engines, [0] * 4, short) for _ in range(8)} == {2, 3}
    assert {policy.pick(engines[:2], [0] * 2, short) for _ in range(8)} == {0, 1}


def test_the_entry_point_shown_is_in_the_right_group():
    assert tomllib.loads(block("toml"))["project"]["entry-points"][registry.GROUP] == {
        "longshort": "longshort:LongShort"
    }
