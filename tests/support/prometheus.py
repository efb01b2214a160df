"""A real Prometheus."""

import subprocess
from pathlib import Path
from typing import Any

import httpx

from lib.debian import program
from support.ports import free_ports
from support.wait import wait_until


class Prometheus:
    """Runs with a configuration until `close`; its log is beside its data."""

    def __init__(self, configuration: Path, directory: Path) -> None:
        directory.mkdir()
        (port,) = free_ports(1)
        self._log = directory / "prometheus.log"
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus", "prometheus"),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, 30, "Prometheus is ready")

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        reply = self._http.post("/api/v1/query", data={"query": expr}).json()
        assert reply["status"] == "success", (expr, reply)
        result: list[dict[str, Any]] = reply["data"]["result"]
        return result

    def alerts(self) -> dict[str, str]:
        """Return the alerts that are pending or firing, by name."""
        found = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {a["labels"]["alertname"]: a["state"] for a in found}

    def close(self) -> None:
        """End it."""
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
