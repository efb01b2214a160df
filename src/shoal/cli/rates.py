"""Rates per second out of two looks at the counters of a cluster's metrics. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_TOKENS = "vllm:generation_tokens_total"
_REQUESTS = "shoal_gateway_requests_total"
_LINE = re.compile(rf"^({_TOKENS}|{_REQUESTS})\{{(.*)\}} ([0-9.eE+]+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Counted(NamedTuple):
    """A look at the counters.

    Attributes:
        at: when, seconds on a steady clock.
        requests: that gateways have answered, by node.
        tokens: that engines have generated, by full id.
    """

    at: float
    requests: Mapping[str, float]
    tokens: Mapping[str, float]


def read(text: str, at: float) -> Counted:
    """Return the counters in a cluster's metrics (Prometheus' text format)."""
    requests: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for name, labels, value in _LINE.findall(text):
        label = dict(_LABEL.findall(labels))
        into, key = (
            (requests, label.get("node", "")) if name == _REQUESTS else (tokens, label.get("engine", ""))
        )
        into[key] = into.get(key, 0.0) + float(value)
    return Counted(at, requests, tokens)


def per_second(before: Counted | None, now: Counted) -> tuple[dict[str, float], dict[str, float]]:
    """Return requests per second by node and tokens per second by engine; nothing before the second look.

    A counter that has gone down began anew, with its process.
    """
    if before is None or now.at <= before.at:
        return {}, {}
    seconds = now.at - before.at

    def rate(was: Mapping[str, float], is_: Mapping[str, float]) -> dict[str, float]:
        return {
            key: (value - was[key] if value >= was[key] else value) / seconds
            for key, value in is_.items()
            if key in was
        }

    return rate(before.requests, now.requests), rate(before.tokens, now.tokens)
