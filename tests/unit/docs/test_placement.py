"""What docs/placement.md shows is what `shoal plan` prints."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.models.parameters import KNOWN

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "placement.md").read_text()
SHOWN = re.findall(r"```\n\$ shoal (plan .*?)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[c.split()[1] for c, _ in SHOWN])
def test_every_plan_shown_is_printed(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = CliRunner(env={"SHOAL_SECRET": None}).invoke(app, command.split()).stdout
    lines = [line.rstrip() for line in printed.replace(f"{ROOT}/", "").strip().splitlines()]
    assert lines == output.strip().splitlines()


def test_plans_are_shown_and_the_kinds_of_models_named() -> None:
    assert len(SHOWN) == 2
    for kind in KNOWN:
        assert f"`{kind}`" in TEXT
