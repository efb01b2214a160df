"""Recording and alert rules for Prometheus. docs/runbook.md has a section for each alert."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_REFUSED = "wrong_secret|wrong_cluster|wrong_version|malformed"


class Alert(NamedTuple):
    """An alert.

    Attributes:
        name: of the alert, and in lower case of its section in the runbook.
        expr: fires while this has a result.
        wait: so long, Prometheus' notation.
        severity: ``critical``: clients notice, or will soon. ``warning``: look at it today.
        summary: a sentence; may name labels as ``{{ $labels.node }}``.
    """

    name: str
    expr: str
    wait: str
    severity: str
    summary: str


RECORDING = {
    "cluster_model_code:shoal_gateway_requests:rate5m": (
        "sum by (cluster, model, code) (rate(shoal_gateway_requests_total[5m]))"
    ),
    "cluster_model:shoal_gateway_errors:ratio_rate5m": (
        '(sum by (cluster, model) (rate(shoal_gateway_requests_total{code=~"5..",model!=""}[5m]))'
        ' or 0 * sum by (cluster, model) (rate(shoal_gateway_requests_total{model!=""}[5m])))'
        ' / sum by (cluster, model) (rate(shoal_gateway_requests_total{model!=""}[5m]))'
    ),
    "cluster_model:shoal_gateway_time_to_first_token_seconds:p99_5m": (
        "histogram_quantile(0.99, sum by (cluster, model, le) "
        "(rate(shoal_gateway_time_to_first_token_seconds_bucket[5m])))"
    ),
    "cluster_model:shoal_gateway_inter_token_latency_seconds:mean5m": (
        "sum by (cluster, model) (rate(shoal_gateway_inter_token_latency_seconds_sum[5m]))"
        " / sum by (cluster, model) (rate(shoal_gateway_inter_token_latency_seconds_count[5m]))"
    ),
    "cluster_node_engine:vllm_generation_tokens:rate1m": (
        "sum by (cluster, node, engine) (rate(vllm:generation_tokens_total[1m]))"
    ),
}
"""Name of the series -> expression."""

ALERTS = (
    Alert("ShoalNodeDown", 'up{job="shoal"} == 0', "1m", "critical",
          "Node {{ $labels.instance }} does not answer Prometheus."),
    Alert("ShoalMemberDead", 'max by (cluster, member) (shoal_member_state{state="dead"}) == 1', "1m", "critical",
          "The other nodes believe {{ $labels.member }} dead."),
    Alert("ShoalIsolated", "shoal_isolated == 1", "30s", "critical",
          "Node {{ $labels.node }} has lost most others at once and takes itself for cut off."),
    Alert("ShoalModelUnavailable", "max by (cluster, model) (shoal_model_engines_ready) == 0", "1m", "critical",
          "No engine of model {{ $labels.model }} is ready."),
    Alert("ShoalEngineNotReady",
          'max by (cluster, node, engine, model) (shoal_engine_state{state=~"waiting|starting|unhealthy"}) == 1',
          "15m", "warning", "Engine {{ $labels.engine }} has not been ready for 15 minutes."),
    Alert("ShoalEngineRestarts", "increase(shoal_engine_restarts_total[15m]) > 2", "0m", "warning",
          "Engine {{ $labels.engine }} was started again several times within 15 minutes."),
    Alert("ShoalErrors",
          "cluster_model:shoal_gateway_errors:ratio_rate5m > 0.05", "5m", "critical",
          "More than 5 % of the requests for model {{ $labels.model }} fail."),
    Alert("ShoalRequestsTurnedAway",
          'sum by (cluster, node) (increase(shoal_gateway_queue_unserved_total{reason=~"full|timeout"}[5m])) > 0',
          "5m", "warning", "Node {{ $labels.node }} turns requests away: no engine has room for them."),
    Alert("ShoalSlowFirstToken", "cluster_model:shoal_gateway_time_to_first_token_seconds:p99_5m > 10", "10m",
          "warning", "One in a hundred streams of model {{ $labels.model }} begins after more than 10 s."),
    Alert("ShoalBrokenStreams", "increase(shoal_gateway_broken_streams_total[10m]) > 0", "0m", "warning",
          "Streams through node {{ $labels.node }} ended with an error: no engine could go on with them."),
    Alert("ShoalKvCacheFull", "shoal_engine_kv_usage_ratio > 0.95", "10m", "warning",
          "The KV cache of engine {{ $labels.engine }} has been full for 10 minutes."),
    Alert("ShoalConfigsDiffer", "count by (cluster) (count by (cluster, hash) (shoal_config_info)) > 1", "5m",
          "warning", "Nodes of cluster {{ $labels.cluster }} run with configurations that do not fit together."),
    Alert("ShoalVersionsDiffer",
          "count by (cluster) (count by (cluster, version, vllm, torch) (shoal_build_info)) > 1", "1h", "warning",
          "Nodes of cluster {{ $labels.cluster }} run different versions of Shoal, vLLM or PyTorch."),
    Alert("ShoalStandbyActive", "shoal_standby_covers == 1", "0m", "warning",
          "Standby {{ $labels.node }} stands in for {{ $labels.member }}: nobody stands in for the next loss."),
    Alert("ShoalBatchStalled",
          'sum by (cluster, node) (shoal_batch_lines{state="waiting"}) > 0'
          " and sum by (cluster, node) (increase(shoal_batch_executed_lines_total[15m])) == 0", "15m", "warning",
          "Node {{ $labels.node }} has batches and has not executed a line of them for 30 minutes."),
    Alert("ShoalBatchLate", "shoal_batch_window_used_ratio > 0.8", "5m", "warning",
          "A batch of node {{ $labels.node }} has used more than 80 % of its completion window and is not done."),
    Alert("ShoalTransportByTcp", "shoal_transport_by_tcp == 1", "5m", "warning",
          "Requests of node {{ $labels.node }} go to {{ $labels.peer }} by tcp, not by {{ $labels.protocol }}."),
    Alert("ShoalWorkerRestarts", "increase(shoal_gateway_worker_restarts_total[15m]) > 0", "0m", "warning",
          "A gateway worker of node {{ $labels.node }} died and was replaced."),
    Alert("ShoalStrangeDatagrams",
          f'sum by (cluster, node) (increase(shoal_heartbeat_datagrams_total{{result=~"{_REFUSED}"}}[10m])) > 0',
          "10m", "warning", "Node {{ $labels.node }} gets heartbeats that it has to refuse."),
    Alert("ShoalMemoryLow", "shoal_node_memory_available_bytes / shoal_node_memory_bytes < 0.05", "5m", "warning",
          "Node {{ $labels.node }} has less than 5 % of its memory left."),
    Alert("ShoalDiskFull", "shoal_node_disk_free_bytes / shoal_node_disk_bytes < 0.05", "10m", "warning",
          "Node {{ $labels.node }} has less than 5 % left of the disk that holds its {{ $labels.holds }}."),
    Alert("ShoalGpuHot", "shoal_gpu_temperature_celsius > 90", "10m", "warning",
          "GPU {{ $labels.gpu }} of node {{ $labels.node }} is hotter than 90 degrees Celsius."),
)  # fmt: skip


def recording_rules() -> dict[str, Any]:
    """Return the file of recording rules, plain data."""
    rules = [{"record": name, "expr": expr} for name, expr in RECORDING.items()]
    return {"groups": [{"name": "shoal-recording", "rules": rules}]}


def alert_rules(runbook: str, alerts: Iterable[Alert] = ALERTS) -> dict[str, Any]:
    """Return the file of alert rules, plain data.

    Args:
        runbook: where docs/runbook.md is to be read; each alert links to its section there.
        alerts: the alerts.
    """
    return {"groups": [{"name": "shoal-alerts", "rules": list(_rules(runbook, alerts))}]}


def _rules(runbook: str, alerts: Iterable[Alert]) -> Iterator[dict[str, Any]]:
    for alert in alerts:
        yield {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "runbook_url": f"{runbook}#{alert.name.lower()}"},
        }
