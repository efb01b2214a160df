"""Every command that prints data prints it as JSON, too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from shoal.cli.main import app

NONE = {
    "serve": "runs a node",
    "apply": "tells as it happens what it does; its exit status says how it went",
    "up": "tells as it happens what it does",
    "down": "tells as it happens what it does",
    "reload": "says that it was told",
    "backup": "makes a file",
    "restore": "puts a file back",
    "batch run": "writes the results to a file or to standard output, JSON lines as OpenAI's",
    "config schema": "prints JSON and nothing else",
    "monitor init": "makes files",
    "optimize quantize": "makes a model",
    "optimize prune": "makes a model",
    "optimize distill": "makes a model",
    "optimize rollout": "tells as it happens what it does; its exit status says how it went",
}
"""Commands without it, and why."""


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, lazy in group.commands.items():
        command = getattr(lazy, "real", lazy)
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")
        else:
            yield above + name, command


COMMANDS = dict(commands(get_command(app)))


def test_only_commands_that_print_no_data_are_without():
    without = {n for n, c in COMMANDS.items() if not any("--json" in p.opts for p in c.params)}
    deploy = {n for n in without if n.startswith("deploy")}
    assert without - deploy == set(NONE) & set(COMMANDS)


def test_keys_and_configurations_as_json(tmp_path: Path):
    def told(*arguments: str) -> Any:
        reply = CliRunner().invoke(app, [*arguments, "--json"])
        assert reply.exit_code == 0, reply.output
        return json.loads(reply.stdout)

    keys = tmp_path / "keys.yaml"
    made = told("keys", "new", "team", "--file", str(keys))
    assert made["key"].startswith("sk-shoal-")
    assert told("keys", "revoke", "team", "--file", str(keys)) == {"revoked": "team", "file": str(keys)}
    config = tmp_path / "c.yaml"
    config.write_text("nodes:\n  - {host: 127.0.0.1, port: 8000}\nmodel: {path: m, engine: sim}\n")
    checked = told("config", "check", str(config))
    assert checked["before_serving"] == []
    assert any(line.startswith("nodes: 127.0.0.1:8000") for line in checked["summary"])


def test_names_are_completed_from_the_cluster_that_the_line_names(monkeypatch: pytest.MonkeyPatch):
    def members(asked: Any, path: str) -> Any:
        assert asked.url == "http://a:1"
        return {"members": [{"name": "a:1", "engines": [{"id": "m-0"}]}, {"name": "b:1", "engines": []}]}

    monkeypatch.setattr("shoal.cli.asked.Asked.document", members)

    def completed(line: str) -> list[str]:
        env = {"_SHOAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()))}
        reply = CliRunner().invoke(app, [], env=env, prog_name="shoal")
        return reply.stdout.split()

    assert completed("shoal logs --at a:1 ") == ["a:1", "b:1", "a:1/m-0"]
    assert completed("shoal drain --at a:1 ") == ["a:1", "b:1"]


def test_completion_says_nothing_where_no_node_answers(monkeypatch: pytest.MonkeyPatch):
    def nobody(*_: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("shoal.cli.asked.Asked.document", nobody)
    env = {"_SHOAL_COMPLETE": "complete_bash", "COMP_WORDS": "shoal drain ", "COMP_CWORD": "2"}
    reply = CliRunner().invoke(app, [], env=env, prog_name="shoal")
    assert (reply.stdout.strip(), reply.stderr.strip()) == ("", "")
