"""What the READMEs show must work as it stands."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

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


@pytest.mark.parametrize("readme", READMES)
def test_every_shoal_command_and_option_shown_exists(readme: str):
    text = (ROOT / readme).read_text()
    commands = set(
        re.findall(r"shoal (serve|status|plan|reload|config check|config show|config schema)", text)
    )
    assert commands == {"serve", "status", "plan", "reload", "config check", "config show", "config schema"}
    help_text = "".join(
        CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
        for command in commands
    )
    for option in set(re.findall(r"`(--[a-z-]+)", text)):
        assert option in help_text


@pytest.mark.parametrize("readme", READMES)
def test_every_make_target_and_file_named_exists(readme: str):
    text = (ROOT / readme).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (demo|test|test-quick|[a-z]+-[a-z]+)\b", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).exists(), path
