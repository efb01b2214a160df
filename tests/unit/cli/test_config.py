from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.cli.config import app

THREE = Path(__file__).parents[3] / "examples" / "three.yaml"
SECRETS = """\
nodes:
  - host: 127.0.0.1
    port: ${PORT}
models:
  - path: org/tiny
    env: {HF_TOKEN: hunter2}
    args: {hf-token: hunter2, max_model_len: 5}
  - name: cloud
    engine: external
    addresses: [{url: "https://llm.example.com", api_key: hunter2}]
cluster:
  secret: hunter2hunter2hunter2
"""


def shoal(*arguments: object, **env: str) -> Result:
    return CliRunner(env={"SHOAL_SECRET": None, "XDG_STATE_HOME": None, **env}).invoke(
        app, list(map(str, arguments))
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(SECRETS)
    return tmp_path / "c.yaml"


def test_check_summarises_a_valid_file() -> None:
    result = shoal("check", THREE)
    assert result.exit_code == 0
    assert f"{THREE} is valid" in result.stdout
    assert "node1.example.com:8000, node2.example.com:8001, node3.example.com:8002" in result.stdout
    assert "model model: /path/to/your/model, type large, engine vllm, on 3 nodes" in result.stdout
    assert "noticed within 1.9 s" in result.stdout


def test_check_says_what_is_needed_before_a_valid_file_can_start() -> None:
    result = shoal("check", THREE)
    assert f"before it can start: {THREE}:2:11: node node1.example.com:8000" in result.stderr
    assert shoal("check", THREE, SHOAL_SECRET="x" * 16).stderr == ""


def test_check_tells_all_problems_on_stderr_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nodes: [{host: ::1, port: x}]\nmodel: {path: a/b}\nzzz: 1\n")
    result = shoal("check", tmp_path / "c.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.split("c.yaml:")[1][:4] for line in result.stderr.splitlines()] == ["1:27", "3:1:"]


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_file_that_does_not_exist_is_told_in_one_line(command: str, tmp_path: Path) -> None:
    result = shoal(command, tmp_path / "nope.yaml")
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}/nope.yaml: there is no such file\n"


def test_show_tells_every_setting_and_where_it_came_from(file: Path) -> None:
    result = shoal("show", file, PORT="8123")
    assert result.exit_code == 0
    rows = {
        line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines() if line.strip()
    }
    assert [part.strip() for part in rows["nodes[0].port"]] == [
        "8123",
        "environment variable PORT at c.yaml:3",
    ]
    assert [part.strip() for part in rows["nodes[0].host"]] == ["127.0.0.1", "c.yaml:2"]
    assert [part.strip() for part in rows["gateway.max_body"]] == ["64MiB", "default"]


def test_show_aligns_its_columns(file: Path) -> None:
    lines = shoal("show", file, PORT="8123").stdout.split("\n\n", maxsplit=1)[0].splitlines()
    column = lines[0].index("from")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)


def test_show_tells_the_timers_with_their_inequalities(file: Path) -> None:
    out = shoal("show", file, PORT="8123").stdout
    assert "<= cluster.heartbeat_interval x cluster.suspect_after = 1.5 s" in out
    assert "> cluster.heartbeat_interval x cluster.suspect_after + cluster.confirm_timeout = 1.9 s" in out
    assert "< communication.timeout = 30 s" in out


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["check"]])
def test_no_secret_is_ever_printed(file: Path, arguments: list[str]) -> None:
    result = shoal(*arguments, file, PORT="8123")
    assert result.exit_code == 0
    assert "hunter2" not in result.output


def test_show_json_is_for_programs(file: Path) -> None:
    data = json.loads(shoal("show", file, "--json", PORT="8123").stdout)
    settings = {s["name"]: s for s in data["settings"]}
    assert settings["nodes[0].port"] == {
        "name": "nodes[0].port",
        "value": 8123,
        "from": "environment",
        "line": 3,
        "variables": ["PORT"],
        "source": "environment variable PORT at c.yaml:3",
    }
    assert settings["cluster.secret"]["value"] == "(hidden)"
    assert len(data["fingerprint"]) == 16
    assert {t["name"] for t in data["timers"]} >= {"cluster.confirm_timeout", "cluster.leave_after"}
    assert data["before_serving"] == []


def test_schema_is_a_json_schema() -> None:
    result = shoal("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"nodes", "model", "models", "state_dir"} <= set(schema["properties"])


def test_markup_in_a_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('nodes: [{host: ::1}]\nmodel: {path: "a/[red]b[/]"}\n')
    assert "a/[red]b[/]" in shoal("show", tmp_path / "c.yaml").stdout


def test_errors_need_no_terminal_and_show_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    program = "import sys; from shoal.cli.config import app; app(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(tmp_path / "c.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"{tmp_path}/c.yaml:1:1: the file is UTF-16; save the file as UTF-8\n"


def test_standby_nodes_are_shown_with_their_kind_and_their_timers_only_where_there_are_some() -> None:
    standby = THREE.with_name("standby.yaml")
    checked = shoal("check", standby, SHOAL_SECRET="x" * 32).stdout
    assert "node3.example.com:8000 (hot standby), node4.example.com:8000 (warm standby)" in checked
    for file, shown in ((standby, True), (THREE, False)):
        timers = shoal("show", file, SHOAL_SECRET="x" * 32).stdout.partition("otherwise")[2]
        assert ("recovery.takeover_after" in timers) is shown
