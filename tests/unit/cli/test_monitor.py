import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lib.debian import program
from shoal import observe
from shoal.cli.main import app
from shoal.cluster.scrape_key import scrape_key

FILE = """
nodes:
  - {host: node1.example.com, port: 8000}
  - {host: node2.example.com, port: 8001}
model: {path: m, engine: sim}
cluster: {name: here, secret: a secret of sixteen}
"""


def init(tmp_path: Path, more: str = "", *options: str) -> Result:
    (tmp_path / "cluster.yaml").write_text(FILE + more)
    arguments = ["monitor", "init", str(tmp_path / "out"), "-c", str(tmp_path / "cluster.yaml"), *options]
    return CliRunner().invoke(app, arguments)


def promtool_says(tmp_path: Path) -> str:
    command = [
        program("promtool", "prometheus"),
        "check",
        "config",
        str(tmp_path / "out/prometheus/prometheus.yml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_what_is_written(tmp_path: Path):
    done = init(tmp_path, "", "--runbook", "https://wiki.example.com/runbook")
    assert done.exit_code == 0, done.output
    assert "2 rule files found" in promtool_says(tmp_path)
    targets = json.loads((tmp_path / "out/prometheus/targets/shoal.json").read_text())
    assert targets == [
        {"targets": ["node1.example.com:8000", "node2.example.com:8001"], "labels": {"cluster": "here"}}
    ]
    alerts = (tmp_path / "out/prometheus/rules/alerts.yml").read_text()
    assert "https://wiki.example.com/runbook#shoalnodedown" in alerts
    assert not (tmp_path / "out/prometheus/metrics.key").exists()
    boards = sorted(p.stem for p in (tmp_path / "out/grafana/dashboards").iterdir())
    assert boards == ["shoal-batches", "shoal-cluster", "shoal-engine", "shoal-node", "shoal-requests"]
    provider = (tmp_path / "out/grafana/provisioning/dashboards/shoal.yaml").read_text()
    assert str(tmp_path / "out/grafana/dashboards") in provider


def test_a_second_time_all_is_made_anew(tmp_path: Path):
    assert init(tmp_path).exit_code == 0
    board = tmp_path / "out/grafana/dashboards/shoal-node.json"
    before = board.read_text()
    board.write_text("edited")
    assert init(tmp_path).exit_code == 0
    assert board.read_text() == before


def test_where_metrics_are_for_admins_prometheus_gets_the_key_for_them(tmp_path: Path):
    more = "gateway: {keys: {api_keys: [a-key-of-sixteen-chars], metrics: admin}}\n"
    assert init(tmp_path, more).exit_code == 0
    promtool_says(tmp_path)
    key = tmp_path / "out/prometheus/metrics.key"
    assert key.read_text() == scrape_key("here", "a secret of sixteen")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "credentials_file: metrics.key" in (tmp_path / "out/prometheus/prometheus.yml").read_text()


def test_it_says_how_nodes_keep_the_targets_current(tmp_path: Path):
    said = init(tmp_path).output
    setting = said.split("cluster's file:\n")[1].strip()
    assert setting == f"monitoring: {{targets_file: {tmp_path}/out/prometheus/targets/shoal.json}}"
    assert "cluster's file" not in init(tmp_path, setting + "\n").output


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "shoal.observe.grafana", raising=False)
    monkeypatch.delattr(observe, "grafana", raising=False)
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.builders", None)
    done = init(tmp_path)
    assert done.exit_code == 2
    assert "pip install 'shoal[monitor]'" in done.output
    assert not (tmp_path / "out").exists()


def test_a_file_with_a_mistake_is_refused(tmp_path: Path):
    assert init(tmp_path, "nonsense: 1\n").exit_code == 2
