"""A node that speaks HTTPS: clients, `shoal status`, `shoal reload`, a second node process, a new certificate."""

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from support.cluster import Cluster
from support.wait import wait_until

Make = Callable[..., Cluster]


def make_pair(directory: Path, name: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip


def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_node_serves_https_and_its_commands_ask_by_https(make_cluster: Make, tmp_path: Path):
    cluster = make_cluster(nodes=1, gateway={"workers": 2, "tls": {"certificate": "c.pem", "key": "c.key"}})
    make_pair(cluster.directory, "c")
    certificate = cluster.directory / "c.pem"
    url = f"https://{cluster.names[0]}"
    cluster.start_node(0)
    wait_until(lambda: '"ready"' in shoal("status", url, "--json").stdout, 30, "the engine is ready")

    def models(trust: Path) -> int:
        context = ssl.create_default_context(cafile=str(trust))
        with httpx.Client(verify=context, trust_env=False) as http:
            try:
                return http.get(f"{url}/v1/models").status_code
            except httpx.ConnectError:
                return 0

    assert models(certificate) == 200
    by_file = shoal("status", "--config", str(cluster.path))
    assert (by_file.returncode, "engines ready 1/1" in by_file.stdout) == (0, True), by_file
    assert f"https://{cluster.names[0]}/v1" in by_file.stdout
    reloaded = shoal("reload", "--config", str(cluster.path))
    assert (reloaded.returncode, "2 new gateway workers" in reloaded.stdout) == (0, True), reloaded
    assert models(certificate) == 200

    other = cluster.write("other.yaml", cluster.config | {"state_dir": str(tmp_path / "elsewhere")})
    second = subprocess.run(
        [sys.executable, "-m", "shoal.serve", "--config", str(other), "--node", cluster.names[0]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert f"node {cluster.names[0]} already runs" in second.stderr

    make_pair(cluster.directory, "new")
    for kind in ("key", "pem"):
        (cluster.directory / f"new.{kind}").replace(cluster.directory / f"c.{kind}")
    wait_until(lambda: models(certificate) == 200, 10, "the new certificate is in use")
    told = shoal("status", url).stdout
    assert told.count("has changed and is in use") == 1, "two workers, one event"
    cluster.stop_node(0)
