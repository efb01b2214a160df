"""Spans of requests for OpenTelemetry."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from shoal.config.base import Section


def _is_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("it must be an http:// or https:// URL, such as http://collector:4318/v1/traces")
    return value


class Tracing(Section):
    """Spans of requests, for OpenTelemetry (docs/tracing.md). By default none."""

    sample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the requests without a trace of their own (`traceparent`) that get a span. One that has "
        "a trace gets a span if its trace is sampled. 0: no spans at all.",
    )
    endpoint: Annotated[str, AfterValidator(_is_url)] = Field(
        default="http://127.0.0.1:4318/v1/traces", description="Where spans go: OTLP over HTTP."
    )
    service: str = Field(
        default="shoal", min_length=1, max_length=100, description="`service.name` of the spans."
    )
