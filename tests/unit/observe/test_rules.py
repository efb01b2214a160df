"""Rules: promtool takes them, each alert fires when it should and not before, and the runbook knows it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from lib.debian import program
from shoal.observe.rules import ALERTS, RECORDING, Alert, alert_rules, recording_rules

RUNBOOK = (Path(__file__).parents[3] / "docs/runbook.md").read_text()
NODE = {"cluster": "c", "node": "a:1"}
ENGINE = NODE | {"engine": "a:1/m-0", "model": "m"}

# Alert -> series that make it fire, series that do not, when it fires, labels it has.
CASES: dict[str, tuple[dict[str, str], dict[str, str], str, dict[str, str]]] = {
    "ShoalNodeDown": (
        {'up{job="shoal",cluster="c",instance="a:1"}': "0x30"},
        {'up{job="shoal",cluster="c",instance="a:1"}': "1x30", 'up{job="other"}': "0x30"},
        "2m", {"job": "shoal", "cluster": "c", "instance": "a:1"},
    ),
    "ShoalMemberDead": (
        {'shoal_member_state{cluster="c",node="a:1",member="b:1",state="dead"}': "1x30"},
        {'shoal_member_state{cluster="c",node="a:1",member="b:1",state="suspect"}': "1x30"},
        "2m", {"cluster": "c", "member": "b:1"},
    ),
    "ShoalIsolated": (
        {'shoal_isolated{cluster="c",node="a:1"}': "1x30"}, {'shoal_isolated{cluster="c",node="a:1"}': "0x30"},
        "1m", NODE,
    ),
    "ShoalModelUnavailable": (
        {'shoal_model_engines_ready{cluster="c",node="a:1",model="m"}': "0x30"},
        {'shoal_model_engines_ready{cluster="c",node="a:1",model="m"}': "0x30",
         'shoal_model_engines_ready{cluster="c",node="b:1",model="m"}': "1x30"},
        "2m", {"cluster": "c", "model": "m"},
    ),
    "ShoalEngineNotReady": (
        {'shoal_engine_state{cluster="c",node="a:1",engine="a:1/m-0",model="m",state="starting"}': "1x60"},
        {'shoal_engine_state{cluster="c",node="a:1",engine="a:1/m-0",model="m",state="starting"}': "1x10 0x50"},
        "16m", ENGINE,
    ),
    "ShoalEngineRestarts": (
        {'shoal_engine_restarts_total{cluster="c",node="a:1",engine="a:1/m-0",model="m"}': "0+1x30"},
        {'shoal_engine_restarts_total{cluster="c",node="a:1",engine="a:1/m-0",model="m"}': "0x5 1x25"},
        "15m", ENGINE,
    ),
    "ShoalErrors": (
        {'shoal_gateway_requests_total{cluster="c",model="m",code="200"}': "0+90x30",
         'shoal_gateway_requests_total{cluster="c",model="m",code="503"}': "0+10x30"},
        {'shoal_gateway_requests_total{cluster="c",model="m",code="200"}': "0+99x30",
         'shoal_gateway_requests_total{cluster="c",model="m",code="500"}': "0+1x30",
         'shoal_gateway_requests_total{cluster="c",model="m",code="404"}': "0+99x30"},
        "15m", {"cluster": "c", "model": "m"},
    ),
    "ShoalRequestsTurnedAway": (
        {'shoal_gateway_queue_unserved_total{cluster="c",node="a:1",reason="full"}': "0+5x30"},
        {'shoal_gateway_queue_unserved_total{cluster="c",node="a:1",reason="client_gone"}': "0+5x30"},
        "15m", NODE,
    ),
    "ShoalSlowFirstToken": (
        {'shoal_gateway_time_to_first_token_seconds_bucket{cluster="c",model="m",le="10.0"}': "0+1x60",
         'shoal_gateway_time_to_first_token_seconds_bucket{cluster="c",model="m",le="20.0"}': "0+9x60",
         'shoal_gateway_time_to_first_token_seconds_bucket{cluster="c",model="m",le="+Inf"}': "0+9x60"},
        {'shoal_gateway_time_to_first_token_seconds_bucket{cluster="c",model="m",le="10.0"}': "0+9x60",
         'shoal_gateway_time_to_first_token_seconds_bucket{cluster="c",model="m",le="+Inf"}': "0+9x60"},
        "25m", {"cluster": "c", "model": "m"},
    ),
    "ShoalBrokenStreams": (
        {'shoal_gateway_broken_streams_total{cluster="c",node="a:1"}': "0x5 1x30"},
        {'shoal_gateway_broken_streams_total{cluster="c",node="a:1"}': "7x30"}, "8m", NODE,
    ),
    "ShoalKvCacheFull": (
        {'shoal_engine_kv_usage_ratio{cluster="c",node="a:1",engine="a:1/m-0",model="m"}': "0.97x30"},
        {'shoal_engine_kv_usage_ratio{cluster="c",node="a:1",engine="a:1/m-0",model="m"}': "0.9x30"},
        "15m", ENGINE,
    ),
    "ShoalConfigsDiffer": (
        {'shoal_config_info{cluster="c",node="a:1",hash="x"}': "1x30",
         'shoal_config_info{cluster="c",node="b:1",hash="y"}': "1x30"},
        {'shoal_config_info{cluster="c",node="a:1",hash="x"}': "1x30",
         'shoal_config_info{cluster="c",node="b:1",hash="x"}': "1x30",
         'shoal_config_info{cluster="d",node="c:1",hash="y"}': "1x30"},
        "10m", {"cluster": "c"},
    ),
    "ShoalVersionsDiffer": (
        {'shoal_build_info{cluster="c",node="a:1",version="1",vllm="1"}': "1x100",
         'shoal_build_info{cluster="c",node="b:1",version="1",vllm="2"}': "1x100"},
        {'shoal_build_info{cluster="c",node="a:1",version="1",vllm="1"}': "1x100",
         'shoal_build_info{cluster="c",node="b:1",version="1",vllm="1"}': "1x100"},
        "70m", {"cluster": "c"},
    ),
    "ShoalStandbyActive": (
        {'shoal_standby_covers{cluster="c",node="a:1",member="b:1"}': "1x30"}, {}, "1m", NODE | {"member": "b:1"},
    ),
    "ShoalBatchStalled": (
        {'shoal_batch_lines{cluster="c",node="a:1",state="waiting"}': "5x60",
         'shoal_batch_executed_lines_total{cluster="c",node="a:1",result="completed"}': "0+9x5 45x55",
         'shoal_batch_executed_lines_total{cluster="c",node="a:1",result="failed"}': "0x60"},
        {'shoal_batch_lines{cluster="c",node="a:1",state="waiting"}': "5x60",
         'shoal_batch_executed_lines_total{cluster="c",node="a:1",result="completed"}': "0x60",
         'shoal_batch_executed_lines_total{cluster="c",node="a:1",result="failed"}': "0+1x60",
         'shoal_batch_lines{cluster="c",node="b:1",state="waiting"}': "0x60",
         'shoal_batch_executed_lines_total{cluster="c",node="b:1",result="completed"}': "7x60"},
        "40m", NODE,
    ),
    "ShoalBatchLate": (
        {'shoal_batch_window_used_ratio{cluster="c",node="a:1"}': "0.85x30"},
        {'shoal_batch_window_used_ratio{cluster="c",node="a:1"}': "0.7x30"}, "10m", NODE,
    ),
    "ShoalTransportByTcp": (
        {'shoal_transport_by_tcp{cluster="c",node="a:1",peer="b:1",protocol="udp"}': "1x30"},
        {'shoal_transport_by_tcp{cluster="c",node="a:1",peer="b:1",protocol="udp"}': "1x3 0x27"},
        "10m", NODE | {"peer": "b:1", "protocol": "udp"},
    ),
    "ShoalWorkerRestarts": (
        {'shoal_gateway_worker_restarts_total{cluster="c",node="a:1"}': "0x5 1x30"},
        {'shoal_gateway_worker_restarts_total{cluster="c",node="a:1"}': "1x30"}, "8m", NODE,
    ),
    "ShoalStrangeDatagrams": (
        {'shoal_heartbeat_datagrams_total{cluster="c",node="a:1",result="wrong_secret"}': "0+60x60"},
        {'shoal_heartbeat_datagrams_total{cluster="c",node="a:1",result="received"}': "0+60x60"},
        "30m", NODE,
    ),
    "ShoalMemoryLow": (
        {'shoal_node_memory_available_bytes{cluster="c",node="a:1"}': "1x30",
         'shoal_node_memory_bytes{cluster="c",node="a:1"}': "100x30"},
        {'shoal_node_memory_available_bytes{cluster="c",node="a:1"}': "50x30",
         'shoal_node_memory_bytes{cluster="c",node="a:1"}': "100x30"},
        "10m", NODE,
    ),
    "ShoalDiskFull": (
        {'shoal_node_disk_free_bytes{cluster="c",node="a:1",holds="state"}': "1x30",
         'shoal_node_disk_bytes{cluster="c",node="a:1",holds="state"}': "100x30"},
        {'shoal_node_disk_free_bytes{cluster="c",node="a:1",holds="state"}': "50x30",
         'shoal_node_disk_bytes{cluster="c",node="a:1",holds="state"}': "100x30"},
        "15m", NODE | {"holds": "state"},
    ),
    "ShoalGpuHot": (
        {'shoal_gpu_temperature_celsius{cluster="c",node="a:1",gpu="0",name="H100"}': "95x30"},
        {'shoal_gpu_temperature_celsius{cluster="c",node="a:1",gpu="0",name="H100"}': "80x30"},
        "15m", NODE | {"gpu": "0", "name": "H100"},
    ),
}  # fmt: skip


def promtool(directory: Path, *arguments: str) -> str:
    command = [program("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Rules as files; JSON is YAML."""
    (tmp_path / "recording.yml").write_text(json.dumps(recording_rules()))
    (tmp_path / "alerts.yml").write_text(json.dumps(alert_rules("docs/runbook.md")))
    return tmp_path


def test_promtool_takes_them(directory: Path):
    said = promtool(directory, "check", "rules", "recording.yml", "alerts.yml")
    assert f"{len(ALERTS)} rules found" in said
    assert f"{len(RECORDING)} rules found" in said


def test_every_expression_parses():
    for expr in (*RECORDING.values(), *(alert.expr for alert in ALERTS)):
        promql_parser.parse(expr)


def expected(alert: Alert, labels: dict[str, str]) -> dict[str, Any]:
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda m: labels[m[1]], alert.summary)
    url = f"docs/runbook.md#{alert.name.lower()}"
    return {
        "exp_labels": labels | {"severity": alert.severity},
        "exp_annotations": {"summary": summary, "runbook_url": url},
    }


def test_each_alert_fires_when_it_should_and_only_then(directory: Path):
    assert set(CASES) == {alert.name for alert in ALERTS}
    tests = []
    for alert in ALERTS:
        firing, quiet, at, labels = CASES[alert.name]
        for series, outcome in ((firing, [expected(alert, labels)]), (quiet, [])):
            test = {"eval_time": at, "alertname": alert.name, "exp_alerts": outcome}
            early = {"eval_time": "0m", "alertname": alert.name, "exp_alerts": []}
            checks = [test] if alert.wait == "0m" else [test, early]
            inputs = [{"series": name, "values": values} for name, values in series.items()]
            tests.append({"interval": "1m", "input_series": inputs, "alert_rule_test": checks})
    document = {"rule_files": ["recording.yml", "alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "tests.yml").write_text(json.dumps(document))
    assert "SUCCESS" in promtool(directory, "test", "rules", "tests.yml")


def test_the_runbook_has_a_section_for_each_alert_and_no_other():
    assert re.findall(r"^## (Shoal\w+)$", RUNBOOK, re.MULTILINE) == [alert.name for alert in ALERTS]
    for section in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]:
        assert "**Meaning.**" in section
        assert "**What to do.**" in section
