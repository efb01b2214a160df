"""The part that runs on the machines, on this one: under systemd (told apart by what it is asked) and without."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from shoal.deploy.ssh import LOCAL, Machine, MachineError
from support.processes import runs
from support.wait import wait_until

FILES = {"cluster.yaml": b"nodes: []\n", "environment": b'A="1"\n'}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(LOCAL, [], tmp_path)


class Site:
    """A prefix with pretended installations, and one node."""

    def __init__(self, machine: Machine, prefix: Path) -> None:
        self.machine, self.prefix, self.home = machine, prefix, prefix / "nodes/a_1"

    def have(self, *names: str) -> None:
        for name in names:
            (self.prefix / name).mkdir(parents=True)
            (self.prefix / name / ".complete").touch()

    def call(self, what: str, files: dict[str, bytes] | None = None, **more: Any) -> Any:
        base = {"do": what, "prefix": str(self.prefix), "home": str(self.home), "node": "a:1"}
        owner = psutil.Process().username()
        return self.machine.call({**base, "owner": owner, **more}, list((files or {}).items()))

    def release(self, name: str, **changed: bytes) -> None:
        files = FILES | {key.replace("_", "."): value for key, value in changed.items()}
        self.call("release", files, id=name, version=name[0])

    def facts(self) -> Any:
        return self.call("facts", homes={"a:1": str(self.home)}, units={"a:1": ""})


@pytest.fixture
def site(machine: Machine, tmp_path: Path) -> Site:
    return Site(machine, tmp_path / "opt")


def test_a_release_is_put_in_place_and_the_one_before_comes_back(site: Site):
    site.have("1-a", "2-b")
    site.release("1-a")
    assert site.facts()["current"] == "1-a"
    assert {stat.S_IMODE(p.stat().st_mode) for p in site.home.iterdir()} == {0o600}
    site.release("2-b", cluster_yaml=b"nodes: [new]\n")
    assert (site.facts()["current"], (site.home / "cluster.yaml").read_bytes()) == ("2-b", b"nodes: [new]\n")
    site.call("rollback")
    assert (site.facts()["current"], (site.home / "cluster.yaml").read_bytes()) == (
        "1-a",
        FILES["cluster.yaml"],
    )
    assert site.facts()["nodes"]["a:1"]["former"]["install"] == "2-b", "and forward again"


def test_the_same_release_again_does_not_cost_the_former_one(site: Site):
    site.have("1-a", "2-b")
    for name in ("1-a", "2-b", "2-b"):
        site.release(name)
    assert site.facts()["nodes"]["a:1"]["former"]["install"] == "1-a"


def test_only_what_a_node_or_its_rollback_needs_stays_installed(site: Site):
    site.have("1-a", "2-b", "3-c")
    for name in ("1-a", "2-b", "3-c"):
        site.release(name)
    assert site.call("tidy") == {"removed": ["1-a"]}
    with pytest.raises(MachineError, match="no former release"):
        Site(site.machine, site.prefix.parent / "other").call("rollback")


def start(site: Site, command: str, **more: Any) -> None:
    site.call("restart", unit="", unit_text="", command=command, start_timeout=30, stop_timeout=30, **more)


NOTIFYING = """exec python3 -c '
import os, socket, signal, sys
print("A is", os.environ["A"], flush=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
    line.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()'
"""


def test_without_systemd_a_node_gets_a_session_of_its_own_and_is_handed_over(site: Site):
    site.have("1-a")
    site.release("1-a")
    start(site, NOTIFYING)
    first = psutil.Process(site.facts()["nodes"]["a:1"]["pid"])
    assert os.getsid(first.pid) == first.pid
    assert "A is 1" in (site.home / "node.log").read_text()
    start(site, NOTIFYING)
    assert not runs(first)
    second = site.facts()["nodes"]["a:1"]
    assert second["started"]["install"] == "1-a"
    site.call("stop", unit="", stop_timeout=30)
    wait_until(lambda: site.facts()["nodes"]["a:1"]["pid"] is None)


def test_a_node_that_does_not_start_is_told_with_the_end_of_its_log(site: Site):
    site.have("1-a")
    site.release("1-a")
    with pytest.raises(MachineError, match=r"ended with status 2.*\n.*no such model"):
        start(site, "echo no such model; exit 2")
    assert site.facts()["nodes"]["a:1"]["pid"] is None


def test_a_unit_is_written_enabled_and_restarted(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls, tools = tmp_path / "calls", tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {calls}\n[ "$1" != "${{FAILS:-}}" ]\n')
    (tools / "journalctl").write_text("#!/bin/sh\necho the model is not there\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SHOAL_UNIT_DIR", str(tmp_path / "units"))
    site.have("1-a")
    site.release("1-a")
    order = {
        "unit": "shoal-1.service",
        "unit_text": "[Unit]\n",
        "command": "",
        "stop_timeout": 9,
        "start_timeout": 9,
    }
    site.call("restart", **order)
    assert (tmp_path / "units/shoal-1.service").read_text() == "[Unit]\n"
    assert calls.read_text().splitlines() == [
        "daemon-reload",
        "enable shoal-1.service",
        "restart shoal-1.service",
    ]
    monkeypatch.setenv("FAILS", "restart")
    with pytest.raises(MachineError, match="does not start:\nthe model is not there"):
        site.call("restart", **order)
    assert json.loads((site.home / "started.json").read_text())["install"] == "1-a"


def test_an_installation_that_fails_leaves_nothing_and_says_why(site: Site):
    python = str(Path(psutil.Process().exe()).resolve())
    with pytest.raises(MachineError, match="installing with pip failed"):
        site.call(
            "install",
            {"broken-1-py3-none-any.whl": b"no zip"},
            id="1-a",
            python=python,
            requirements=["broken"],
            pip_args=[],
        )
    assert list(site.prefix.iterdir()) == []
