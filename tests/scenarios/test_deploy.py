"""`shoal deploy` against real sshds, from a directory of wheels: two machines, one of them with two nodes."""

import json
import stat
import sys
import sysconfig
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest
from click.testing import Result
from ruamel.yaml import YAML
from typer.testing import CliRunner

from shoal.cli.main import app
from support.cluster import Cluster
from support.lean import LeanClient
from support.load import Clients
from support.processes import runs
from support.sshd import ssh_hosts
from support.wheels import as_version, build_wheel

HOSTS = ["alpha", "beta", "beta"]
SECRET = 'a secret with "quotes", $signs and \\ in it'


class Machines:
    """A cluster whose nodes are deployed, each to a "machine" of its own."""

    def __init__(self, directory: Path, ssh_config: Path) -> None:
        self.directory = directory
        self.cluster = Cluster(directory, 3, cluster={"secret": "${SHOAL_SECRET}"})
        self._ssh_config = ssh_config

    def deploy(self, *more: str, file: Path | None = None) -> Result:
        """Run `shoal deploy` with these options."""
        env = {
            "SHOAL_SECRET": SECRET,
            "TESTED_CLUSTER": str(self.directory),
            # What Shoal needs comes from this environment: to have it all in wheels takes minutes.
            "PYTHONPATH": sysconfig.get_path("purelib"),
        }
        command = ["deploy", str(file or self.cluster.path), "--no-systemd", *more]
        command += [
            "--prefix",
            f"{self.directory}/machines/{{machine}}",
            "--ssh-config",
            str(self._ssh_config),
        ]
        command += [
            "--python",
            str(Path(sys.executable).resolve()),
            "--pip-args=--no-deps --no-compile",
            "--timeout",
            "90",
        ]
        for name, host in zip(self.cluster.names, HOSTS, strict=True):
            command += ["--ssh", f"{name}={host}"]
        for name in ("TESTED_CLUSTER", "PYTHONPATH"):
            command += ["--env", name]
        return CliRunner(env=env).invoke(app, command)

    def prefix(self, index: int) -> Path:
        return self.directory / "machines" / HOSTS[index]

    def home(self, index: int) -> Path:
        return self.prefix(index) / "nodes" / self.cluster.names[index].replace(":", "_")

    def pid(self, index: int) -> int:
        return int((self.home(index) / "pid").read_text().split()[0])

    def versions(self) -> list[str]:
        return [m["version"] for m in self.cluster.status(0)["members"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    (tmp_path / "ssh").mkdir()
    with ssh_hosts(tmp_path / "ssh", sorted(set(HOSTS))) as config:
        found = Machines(tmp_path, config)
        yield found
        found.cluster.close()


class Users(Clients):
    """Ask another node when one takes no connection, as load balancers do."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(4, 600, 0.05)
        self.answered, self.failures = 0, list[str]()
        self._cluster = cluster

    def _client(self, number: int) -> None:
        for turn in self._turns():
            problem = self._ask(number + turn)
            with self._lock:
                if problem:
                    self.failures.append(problem)
                else:
                    self.answered += 1

    def _ask(self, turn: int) -> str:
        body = {"model": "sim-model", "prompt": f"turn {turn}", "max_tokens": 16}
        tried = []
        for step in range(3):
            name = self._cluster.names[(turn + step) % 3]
            try:
                with LeanClient(name) as http:
                    reply = http.post("/v1/completions", body)
                return "" if reply.status == 200 else f"{name}: {reply.status} {reply.text}"
            except (OSError, HTTPException) as error:
                tried.append(f"{name}: {error!r}")
        return "; ".join(tried)


@pytest.mark.timeout(900)  # seconds that a loaded machine may take; 60 on a free one
def test_a_cluster_is_deployed_updated_under_load_and_rolled_back(
    machines: Machines, wheel: Path, tmp_path: Path
):
    cluster = machines.cluster
    first, second = (as_version(wheel, v, tmp_path / v) for v in ("0.9.1", "0.9.2"))

    # Nothing is done before somebody says so.
    told = machines.deploy("--wheels", str(first), "--dry-run")
    assert told.exit_code == 0, told.output
    assert told.output.count(": install shoal==0.9.1 from 1 wheels") == 2
    assert told.output.count("start a process in a session of its own: it does not run") == 3
    assert not (tmp_path / "machines").exists()

    done = machines.deploy("--wheels", str(first))
    assert done.exit_code == 0, done.output
    cluster.wait_ready(3, nodes=[0, 1, 2])
    assert machines.versions() == ["0.9.1"] * 3
    for path in (machines.home(0) / "environment", machines.home(0) / "cluster.yaml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SECRET not in (tmp_path / "ssh/alpha.log").read_text()

    # A second run finds nothing to do and touches nothing.
    before = [machines.pid(i) for i in range(3)]
    again = machines.deploy("--wheels", str(first))
    assert (again.exit_code, again.output.count("nothing to do: 3 nodes run 0.9.1-")) == (0, 1), again.output
    assert [machines.pid(i) for i in range(3)] == before

    with Users(cluster) as clients:
        updated = machines.deploy("--wheels", str(second))
        assert updated.exit_code == 0, updated.output
        assert machines.versions() == ["0.9.2"] * 3
        back = machines.deploy("--wheels", str(second), "--rollback")
        assert back.exit_code == 0, back.output
        assert machines.versions() == ["0.9.1"] * 3
    assert clients.failures == []
    assert clients.answered > 50

    rows = json.loads(machines.deploy("--wheels", str(first), "--status", "--json").output)
    assert [(r["state"], r["ready"], r["former"].split("-")[0]) for r in rows] == [("alive", 1, "0.9.2")] * 3


@pytest.mark.rare  # installs everything on two machines once more
@pytest.mark.timeout(900)
def test_a_node_that_does_not_start_stops_the_roll_and_goes_back(
    machines: Machines, wheel: Path, tmp_path: Path
):
    cluster, first = machines.cluster, as_version(wheel, "0.9.1", tmp_path / "0.9.1")
    done = machines.deploy("--wheels", str(first))
    assert done.exit_code == 0, done.output
    wrong = json.loads(json.dumps(cluster.config))
    wrong["nodes"][1]["bind"] = "192.0.2.7"
    file = cluster.write("wrong.yaml", wrong)
    pids = [machines.pid(i) for i in range(3)]
    stopped = machines.deploy("--wheels", str(first), file=file)
    assert stopped.exit_code == 1
    assert f"Not touched: {cluster.names[2]}" in stopped.output
    assert "192.0.2.7" in stopped.output, "the reason, from the node's log"
    assert machines.pid(0) != pids[0]
    assert machines.pid(2) == pids[2]
    righted = machines.deploy("--wheels", str(first), "--rollback", "--only", cluster.names[1], file=file)
    assert righted.exit_code == 0, righted.output
    assert YAML(typ="safe").load((machines.home(1) / "cluster.yaml").read_text()) == cluster.config
    cluster.wait_ready(3, nodes=[0, 1, 2])
    running = [psutil.Process(machines.pid(i)) for i in range(3)]
    assert machines.deploy("--wheels", str(first), "--stop").exit_code == 0
    assert not any(runs(process) for process in running)


@pytest.mark.timeout(200)
def test_a_machine_that_cannot_be_used_is_told_before_anything_is_done(machines: Machines, tmp_path: Path):
    (tmp_path / "ssh/ssh_config").write_text(
        (tmp_path / "ssh/ssh_config")
        .read_text()
        .replace(
            "Host beta\n  HostName 127.0.0.1",
            "Host beta\n  HostName 127.0.0.1\n  IdentityFile /dev/null\n  PreferredAuthentications none",
        )
    )
    told = machines.deploy()
    assert told.exit_code == 1
    assert f"{machines.cluster.names[1]}: it cannot be reached over SSH" in told.output
    assert "`ssh beta` must work without a question" in told.output
    assert "Nothing was done." in told.output
    assert not (tmp_path / "machines").exists()
