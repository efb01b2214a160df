"""`shoal keys`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.cli.main import app
from shoal.config.keys_file import read_keys
from shoal.gateway.keys import digest_of


def shoal(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "300"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(path: Path):
    done = shoal(
        "new", "anna", "--file", str(path), "--model", "a", "--model", "b", "--tokens-per-minute", "9"
    )
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    assert secret.startswith("sk-shoal-")
    assert len(secret) >= 50
    assert secret not in path.read_text()
    (entry,) = read_keys(path)
    assert entry.hash == digest_of(secret.encode()).hex()
    assert (entry.role, entry.models, entry.tokens_per_minute) == ("user", ("a", "b"), 9)
    assert shoal("new", "anna", "-f", str(path)).exit_code == 2
    assert shoal("new", "root", "-f", str(path), "--admin", "--expires", "2030-01-01").exit_code == 0
    assert read_keys(path)[1].role == "admin"


def test_no_two_keys_are_alike(path: Path):
    made = {shoal("new", f"k{n}", "-f", str(path)).stdout for n in range(5)}
    assert len(made) == 5


@pytest.mark.parametrize(
    "options",
    ["--expires tomorrow", "--tokens-per-minute 0", "--model a --model a", "--priority 999999999"],
)
def test_wrong_options_write_nothing(path: Path, options: str):
    done = shoal("new", "anna", "-f", str(path), *options.split())
    assert done.exit_code == 2
    assert "keys[0]" in done.stderr
    assert not path.exists()


def test_keys_are_listed_and_revoked(path: Path):
    shoal("new", "anna", "-f", str(path), "--max-concurrent", "3")
    shoal("new", "bert", "-f", str(path))
    listed = shoal("list", "-f", str(path)).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["name", "anna", "bert"]
    assert listed[1].split() == ["anna", "user", "all", "-", "-", "3", "0", "never"]
    document = json.loads(shoal("list", "-f", str(path), "--json").stdout)
    assert [k["name"] for k in document["keys"]] == ["anna", "bert"]
    assert "hash" not in document["keys"][0]
    assert shoal("revoke", "anna", "-f", str(path)).exit_code == 0
    again = shoal("revoke", "anna", "-f", str(path))
    assert (again.exit_code, again.stderr.strip().endswith("there are: bert")) == (2, True)


def test_the_file_is_that_of_the_cluster(tmp_path: Path):
    cluster = tmp_path / "c.yaml"
    cluster.write_text("nodes: [{host: 127.0.0.1}]\nmodel: {path: m, engine: sim}\n")
    without = shoal("new", "anna", "-c", str(cluster))
    assert (without.exit_code, "names no file of keys" in without.stderr) == (2, True)
    cluster.write_text(
        cluster.read_text() + f"state_dir: {tmp_path}\ngateway: {{keys: {{file: k/keys.yaml}}}}\n"
    )
    assert shoal("new", "anna", "-c", str(cluster)).exit_code == 0
    assert read_keys(tmp_path / "k/keys.yaml")[0].name == "anna"
    assert "anna" in shoal("list", "-c", str(cluster)).stdout
    for options in ((), ("-c", str(cluster), "-f", "x")):
        assert shoal("list", *options).exit_code == 2
