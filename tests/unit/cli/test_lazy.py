import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from shoal.cli.lazy import COMMANDS
from shoal.cli.main import app

HEAVY = (
    "asyncio",
    "httpx",
    "pydantic",
    "rich.table",
    "ruamel.yaml",
    "shoal.config",
    "shoal.node",
    "starlette",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_its_line_is_the_first_of_its_help(name: str):
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    told = (command.real.help or "").partition("\n\n")[0].replace("\n", " ")
    assert command.help == told
    reply = CliRunner().invoke(app, [name, "--help"])
    assert reply.exit_code == 0
    assert f"{name} [OPTIONS]" in reply.stdout


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys\nfrom shoal.cli.main import app\ntry: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "drain" in done.stdout
    imported = set(eval(done.stderr))  # a list that this test has printed
    assert not imported - {"rich.table"}, imported


def test_a_command_that_does_not_exist_is_refused_with_the_likely_one():
    reply = CliRunner().invoke(app, ["stauts"])
    assert reply.exit_code == 2
    assert "status" in reply.output
