"""Every command that the documentation shows is run by a test, or says why not; all of them exist."""

import re
import shlex

import pytest
from typer.main import get_command

from shoal.cli.main import app
from support.documented import PAGES, Block, blocks

BLOCKS = [block for page in PAGES for block in blocks(page)]
NAMES = [f"{b.page.name}:{b.line}" for b in BLOCKS]


def words(command: str) -> list[str]:
    """Return the words of a `shoal` command without variables before it, [] of another one."""
    found = shlex.split(command)
    while found and re.match(r"[A-Z_]+=", found[0]):
        found = found[1:]
    return found[1:] if found[:1] == ["shoal"] else []


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_commands_are_in_blocks_that_say_so(block: Block):
    assert block.language == "bash", f"{block.page.name}:{block.line} shows commands: ```bash"


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_every_command_and_option_shown_exists(block: Block):
    for command in block.commands:
        rest, here = words(command), get_command(app)
        while rest and hasattr(here, "commands"):
            assert rest[0] in here.commands, command
            lazy, rest = here.commands[rest[0]], rest[1:]
            here = getattr(lazy, "real", lazy)
        known = {option for parameter in here.params for option in parameter.opts + parameter.secondary_opts}
        assert {word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)} <= known, command


def test_most_blocks_are_run_and_the_others_say_why():
    reasons = [block.reason for block in BLOCKS if block.reason]
    assert all(len(reason) > 10 for reason in reasons)
    assert len(reasons) < len(BLOCKS) * 0.6
