"""Prometheus' configuration: where nodes are found, what is asked of them, where the rules are. Plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

JOB = "shoal"
"""Name of the job: rules and dashboards look for it."""


def targets(cluster: str, nodes: Iterable[str]) -> str:
    """Return the file by which Prometheus finds nodes (``file_sd_configs``).

    Args:
        cluster: the cluster's name, a label of all its series.
        nodes: their names, ``host:port``.
    """
    return json.dumps([{"targets": sorted(nodes), "labels": {"cluster": cluster}}], indent=2) + "\n"


def configuration(*, tls: bool, key_file: str | None, interval: str = "10s") -> dict[str, Any]:
    """Return prometheus.yml. Paths in it are relative to it, as Prometheus takes them.

    Args:
        tls: the gateways speak HTTPS.
        key_file: file with the key for metrics; None where nobody needs one.
        interval: between two scrapes.
    """
    job: dict[str, Any] = {
        "job_name": JOB,
        "scheme": "https" if tls else "http",
        "metrics_path": "/metrics",
        "file_sd_configs": [{"files": ["targets/*.json"], "refresh_interval": "30s"}],
    }
    if key_file is not None:
        job["authorization"] = {"credentials_file": key_file}
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [job],
    }
