"""The examples around the cluster, checked as far as it goes without a cloud, a container engine or another machine."""

import re
import socket
import subprocess
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

from lib.debian import program

ROOT = Path(__file__).parents[3]


def complaints(path: Path) -> list[str]:
    """Return what keepalived has to say against a file.

    Its exit status tells nothing where VRRP cannot be set up: the check ends itself then, and its process group.
    """
    command = [program("keepalived", "keepalived"), "--config-test", "--use-file", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, start_new_session=True
    )
    return [line for line in done.stderr.splitlines() if path.name in line]


def test_keepalived_takes_its_configuration(tmp_path: Path):
    interface = next(name for _, name in socket.if_nameindex() if name != "lo")
    text = (
        (ROOT / "examples/front/keepalived.conf")
        .read_text()
        .replace("interface eth0", f"interface {interface}")
    )
    path = tmp_path / "keepalived.conf"
    path.write_text(text)
    path.chmod(0o644)
    assert complaints(path) == []
    path.write_text(text.replace("track_script", "track_skript"))
    assert complaints(path), "or it would not tell"


def test_the_cloud_example_is_what_skypilot_takes_and_its_scripts_are_shell():
    task = YAML(typ="safe").load((ROOT / "examples/cloud/sky.yaml").read_text())
    assert set(task) == {"name", "resources", "envs", "secrets", "setup", "run"}
    assert 'shoal serve --join "$MEMBER" --node "$ADDRESS:8000"' in task["run"]
    used = set(re.findall(r"\$\{?([A-Z_]+)", task["setup"] + task["run"]))
    assert used <= {*task["envs"], *task["secrets"]}
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_image_is_made_of_what_is_there():
    text = (ROOT / "examples/container/Containerfile").read_text()
    (source,) = re.findall(r"^COPY (.*) \./$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in (*source.split(), "src"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "vllm" in project["optional-dependencies"]
    assert re.search(r"^ENTRYPOINT \[\"shoal\", \"serve\"\]$", text, re.MULTILINE)
