"""What the READMEs show must work as it stands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from shoal.cli.main import app
from support.configs import config

ROOT = Path(__file__).parents[3]
READMES = ["README.md", "README.zh-CN.md"]
ENV = {"SHOAL_SECRET": "0123456789abcdef0123456789abcdef", "CLOUD_KEY": "sk-test"}


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)


@pytest.mark.parametrize("readme", READMES)
def test_every_configuration_shown_is_valid(readme: str):
    files = blocks(readme, "yaml")
    assert len(files) == 2
    for text in files:
        assert config(text, **ENV).models


def test_both_languages_show_the_same_commands_and_configurations():
    def bare(text: str) -> list[str]:
        lines = [re.sub(r"#.*", "", line).strip() for line in text.splitlines()]
        return [line for line in lines if line and "messages" not in line]

    for language in ("yaml", "bash"):
        shown = [[line for block in blocks(r, language) for line in bare(block)] for r in READMES]
        assert shown[0] == shown[1]


def known_commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the command line's commands with their groups' names in front: ``keys new``."""
    for name, lazy in group.commands.items():
        command = getattr(lazy, "real", lazy)
        if hasattr(command, "commands"):
            yield from known_commands(command, f"{above}{name} ")
        else:
            yield above + name, command


COMMANDS = dict(known_commands(get_command(app)))


def commands_in(text: str) -> set[str]:
    """Return the commands in code (spans and blocks) that begin with ``shoal``."""
    shown = re.findall(r"(?:`|^\s*)shoal ([a-z]+)(?: ([a-z]+))?", text, re.MULTILINE)
    return {first if first in COMMANDS else f"{first} {second}" for first, second in shown}


@pytest.mark.parametrize("readme", READMES)
def test_every_shoal_command_and_option_shown_exists(readme: str):
    text = (ROOT / readme).read_text()
    commands = commands_in(text)
    assert len(commands) > 5
    assert commands <= COMMANDS.keys()
    options = {option for name in commands for p in COMMANDS[name].params for option in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= options


def test_both_languages_name_the_same_commands():
    english, chinese = (commands_in((ROOT / readme).read_text()) for readme in READMES)
    assert english == chinese


@pytest.mark.parametrize("readme", READMES)
def test_every_make_target_and_file_named_exists(readme: str):
    text = (ROOT / readme).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (demo|test|test-quick|[a-z]+-[a-z]+)\b", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).exists(), path
