"""Metrics in Prometheus' text format, read as tests want them."""

import subprocess

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lib.debian import program


def samples(text: str, name: str, /, **labels: str) -> list[Sample]:
    """Return the series called `name` that have these labels, among others."""
    wanted = labels.items()
    return [
        s
        for f in text_string_to_metric_families(text)
        for s in f.samples
        if s.name == name and wanted <= s.labels.items()
    ]


def total(text: str, name: str, /, **labels: str) -> float:
    """Return the sum of these series, 0 where there are none."""
    return sum(s.value for s in samples(text, name, **labels))


def complaints(text: str) -> list[str]:
    """Return what `promtool check metrics` says against a text, but for vLLM's names, which are not ours."""
    promtool = program("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=30
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode in (0, 3), lines  # 3: style only; 1: it cannot be read
    return [line for line in lines if not line.startswith("vllm:")]
