"""Every metric that Shoal itself exposes: name, kind, labels, meaning. docs/metrics.md has this table.

Names follow Prometheus' conventions (base units, ``_total`` for counters) and end like vLLM's where they measure the
same thing at the gateway. Each series also has the label ``node``, which `shoal.observe.exposition` adds. No label
takes its values from requests, so the number of series is bounded by nodes, engines, models and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)


class Described(NamedTuple):
    """A metric.

    Attributes:
        kind: ``counter``, ``gauge``, ``histogram`` or ``summary``.
        labels: besides ``node``.
        text: one sentence.
    """

    kind: str
    labels: tuple[str, ...]
    text: str


def _counter(text: str, *labels: str) -> Described:
    return Described("counter", labels, text)


def _gauge(text: str, *labels: str) -> Described:
    return Described("gauge", labels, text)


def _histogram(text: str, *labels: str) -> Described:
    return Described("histogram", labels, text)


GATEWAY = {
    "shoal_gateway_requests": _counter(
        "Requests that have ended. engine and model are empty where none has answered; code 499: the client went away; "
        "2xx to 5xx: a code that is not counted by itself.",
        "model", "engine", "code", "streamed",
    ),
    "shoal_gateway_time_to_first_token_seconds": _histogram(
        "From the whole request to the first event of its stream, waiting included.", "model", "engine"
    ),
    "shoal_gateway_inter_token_latency_seconds": _histogram(
        "Time between the events of a stream: its mean, observed once for each gap when the stream ends.",
        "model", "engine",
    ),
    "shoal_gateway_e2e_request_latency_seconds": _histogram(
        "From the whole request to the end of its answer, waiting included; good answers only.", "model", "engine"
    ),
    "shoal_gateway_engine_requests": _counter("Requests dispatched to an engine.", "engine"),
    "shoal_gateway_engine_faults": _counter("Requests that an engine failed.", "engine"),
    "shoal_gateway_retries": _counter("Requests moved to another engine before their first byte."),
    "shoal_gateway_stale_retries": _counter("Requests sent again because an idle connection had been closed."),
    "shoal_gateway_upstream_faults": _counter("Connections that an engine refused, reset or cut."),
    "shoal_gateway_ejections": _counter("Times a worker tried an engine last for a while because of its faults."),
    "shoal_gateway_resumes": _counter("Streams that went on on another engine after theirs had failed."),
    "shoal_gateway_broken_streams": _counter(
        "Streams that ended with an error event because no engine could go on with them."
    ),
    "shoal_gateway_truncated": _counter("Answers that broke off after their first byte had reached the client."),
    "shoal_gateway_client_disconnects": _counter("Clients that went away before their answer was complete."),
    "shoal_gateway_bad_requests": _counter("Requests refused because they are no proper HTTP."),
    "shoal_gateway_connections": _counter("Client connections accepted."),
    "shoal_gateway_bytes_in": _counter("Bytes of request bodies passed on to engines."),
    "shoal_gateway_bytes_out": _counter("Bytes of answers passed on to clients."),
    "shoal_gateway_open_connections": _gauge("Client connections open now."),
    "shoal_gateway_open_requests": _gauge("Requests that engines hold now for this node's gateway."),
    "shoal_gateway_queue_length": _gauge(
        "Requests, batch ones left out, that wait now for room in an engine.", "model"
    ),
    "shoal_gateway_queue_wait_seconds": Described(
        "summary", (), "Time that requests waited for room in an engine, those that did."
    ),
    "shoal_gateway_queue_unserved": _counter(
        "Requests that found no room in an engine: queue full (429), waited too long (503), client gone.", "reason"
    ),
    "shoal_gateway_workers": _gauge("Gateway workers that accept connections."),
    "shoal_gateway_worker_restarts": _counter("Gateway workers replaced because they had died."),
    "shoal_gateway_worker_cpu_seconds": _counter("CPU time of a gateway worker.", "worker"),
    "shoal_gateway_worker_resident_memory_bytes": _gauge("Resident memory of a gateway worker.", "worker"),
}  # fmt: skip

KEYS = {
    "shoal_key_requests": _counter("Requests with an API key that have ended.", "key", "model"),
    "shoal_key_prompt_tokens": _counter(
        "Prompt tokens of an API key's requests, by the engines' own numbers.", "key", "model"
    ),
    "shoal_key_completion_tokens": _counter(
        "Tokens of the answers to an API key's requests, by the engines' own numbers.", "key", "model"
    ),
    "shoal_key_limited": _counter("Requests that a limit of their API key refused.", "key", "model"),
}

CLUSTER = {
    "shoal_build_info": _gauge(
        "1; the labels tell the versions this node runs.", "version", "vllm", "torch", "python"
    ),
    "shoal_config_info": _gauge(
        "1; hash covers what the configurations of all nodes must agree on.", "hash", "role"
    ),
    "shoal_node_up": _gauge("Under /metrics/cluster: 1 if the node answered, 0 if not."),
    "shoal_node_draining": _gauge("1 while the node takes no new work and is about to leave."),
    "shoal_member_state": _gauge("1 for the state this node believes a member is in.", "member", "state"),
    "shoal_member_heartbeat_age_seconds": _gauge("Time since a member was last heard.", "member"),
    "shoal_isolated": _gauge("1 while most members have vanished at once: this node is probably cut off."),
    "shoal_heartbeat_datagrams": _counter(
        "Datagrams of the membership by what became of them: sent, received, or why they were refused or lost.",
        "result",
    ),
    "shoal_standby_takeovers": _counter("Times this standby node took over for a lost one."),
    "shoal_standby_covers": _gauge("1 while this standby node stands in for a member.", "member"),
    "shoal_events": _counter("Events of the node by level: info, warning, error.", "level"),
}

ENGINES = {
    "shoal_model_engines_ready": _gauge("Engines of a model that this node routes to.", "model"),
    "shoal_engine_state": _gauge(
        "1 for the state one of this node's engines is in.", "engine", "model", "state"
    ),
    "shoal_engine_restarts": _counter(
        "Times one of this node's engines was started again since the node process looks after it.",
        "engine",
        "model",
    ),
    "shoal_engine_running": _gauge("Requests an engine says it runs.", "engine", "model"),
    "shoal_engine_waiting": _gauge("Requests an engine says are queued in it.", "engine", "model"),
    "shoal_engine_kv_usage_ratio": _gauge(
        "Share of an engine's KV cache in use; the fullest rank's.", "engine", "model"
    ),
    "shoal_engine_capacity": _gauge(
        "Requests an engine should have at most by its own limits; 0: not known.", "engine", "model"
    ),
}

GROUPS = {
    "shoal_group_part_state": _gauge(
        "1 for what this node does with its part in an engine that spans nodes.",
        "group",
        "model",
        "rank",
        "state",
    ),
    "shoal_group_generation": _gauge(
        "Number of the newest start of an engine that spans nodes which this node has joined; 0: none.",
        "group",
        "model",
    ),
}

BATCHES = {
    "shoal_batches": _gauge("Batches that this node executes, by their status.", "status"),
    "shoal_batch_lines": _gauge(
        "Lines of the batches that this node executes: completed, failed or waiting.", "state"
    ),
    "shoal_batch_oldest_age_seconds": _gauge("Time since the oldest of them was made; 0 without any."),
    "shoal_batch_window_used_ratio": _gauge(
        "Share of its completion window that is over, of the one with the largest: at 1 it expires; 0 without any."
    ),
    "shoal_batch_executed_lines": _counter("Lines of batches that this node has executed.", "result"),
    "shoal_batch_executed_tokens": _counter(
        "Tokens of them by the engines' own numbers: prompt and completion.", "kind"
    ),
}

TRANSPORT = {
    "shoal_transport_by_tcp": _gauge(
        "1 while requests for a node's engines go by tcp and not by communication.protocol, 0 while they go by it; no "
        "series where that is tcp.",
        "peer",
        "protocol",
    ),
    "shoal_transport_requests": _counter(
        "Requests of this node's gateway that were to go by communication.protocol, by what became of them: carried, "
        "by_tcp (instead), late (nobody began it in time) or failed (no answer either way).",
        "protocol",
        "result",
    ),
    "shoal_transport_served_requests": _counter(
        "Requests that communication.protocol has brought to engines of this node.", "protocol"
    ),
}

MACHINE = {
    "shoal_node_cpus": _gauge("Logical CPUs of the node's machine."),
    "shoal_node_cpu_seconds": _counter("CPU time of the machine, all CPUs together.", "mode"),
    "shoal_node_load1": _gauge("Load average of the machine over a minute."),
    "shoal_node_memory_bytes": _gauge("Memory of the machine."),
    "shoal_node_memory_available_bytes": _gauge("Memory of the machine that can be had without swapping."),
    "shoal_node_disk_bytes": _gauge(
        "Size of the file system with the node's state, and with a model's files.", "holds"
    ),
    "shoal_node_disk_free_bytes": _gauge("What is free there for this user.", "holds"),
    "shoal_node_network_receive_bytes": _counter("Bytes received by the machine, loopback left out."),
    "shoal_node_network_transmit_bytes": _counter("Bytes sent by the machine, loopback left out."),
    "shoal_gpu_utilization_ratio": _gauge(
        "Share of the last moment in which the GPU computed.", "gpu", "name"
    ),
    "shoal_gpu_memory_bytes": _gauge("Memory of the GPU.", "gpu", "name"),
    "shoal_gpu_memory_used_bytes": _gauge("Memory of the GPU in use.", "gpu", "name"),
    "shoal_gpu_temperature_celsius": _gauge("Temperature of the GPU.", "gpu", "name"),
    "shoal_gpu_power_watts": _gauge("Power the GPU draws.", "gpu", "name"),
}

SECTIONS = {
    "Gateway": GATEWAY,
    "API keys": KEYS,
    "Cluster": CLUSTER,
    "Engines": ENGINES,
    "Engines across nodes": GROUPS,
    "Batches": BATCHES,
    "Communication": TRANSPORT,
    "Machine": MACHINE,
}
"""The catalogue in the order of the documentation."""

METRICS = {name: described for section in SECTIONS.values() for name, described in section.items()}
"""All of them; counters without their ``_total``."""

_FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}


def family(name: str) -> Metric:
    """Return an empty family of the catalogue, to be filled with ``add_metric``."""
    described = METRICS[name]
    made: Metric = _FAMILIES[described.kind](name, described.text, labels=described.labels)
    return made


def one(name: str, value: float) -> Metric:
    """Return a family of the catalogue that has no labels, with its value."""
    made = family(name)
    made.add_metric([], value)  # type: ignore[attr-defined]
    return made


def as_markdown() -> str:
    """Return the catalogue as the tables of docs/metrics.md."""
    return "\n".join(_markdown())


def _markdown() -> Iterator[str]:
    for title, metrics in SECTIONS.items():
        yield f"### {title}\n"
        yield "| metric | kind | labels | meaning |"
        yield "|---|---|---|---|"
        for name, described in metrics.items():
            full = name + ("_total" if described.kind == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in described.labels)
            yield f"| `{full}` | {described.kind} | {labels} | {described.text} |"
        yield ""
