"""How engines are started and watched."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from shoal.config.base import LocalPath, Seconds, Section, bytes_between

EnginePort = Annotated[int, Field(ge=1024, le=65535)]  # vLLM refuses lower ones

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3


class Engines(Section):
    """How engines are started and watched."""

    python: LocalPath | None = Field(
        default=None,
        description="Python interpreter that vLLM is installed in. By default the one Shoal runs in.",
    )
    ports: Annotated[tuple[EnginePort, EnginePort], Field(strict=False)] = Field(
        default=(20000, 20999),
        description="First and last port that engines may listen on, and the node itself for other nodes; no node's "
        "own port is among them.",
    )
    start_timeout: Seconds = Field(
        default=900.0,
        gt=0,
        le=86400,
        description="Seconds until an engine must be ready, or its start has failed. More than "
        "probe_interval and probe_timeout.",
    )
    probe_interval: Seconds = Field(
        default=1.0,
        ge=0.05,
        le=300,
        description="Seconds between two probes of an engine. Less than start_timeout.",
    )
    probe_timeout: Seconds = Field(
        default=5.0,
        gt=0,
        le=300,
        description="Seconds for an engine to answer a probe. Less than start_timeout.",
    )
    log_max_size: Annotated[int, *bytes_between(64 * _KIB, 64 * _GIB)] = Field(
        default=20 * _MIB, description="Size at which an engine's log file is rotated, in bytes or as 20MiB."
    )
    log_files: int = Field(
        default=3, ge=1, le=1000, description="Log files kept per engine, the current one included."
    )

    @field_validator("ports", mode="before")
    @classmethod
    def _two_ports(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("it must be the first and the last port, as in [20000, 20999]")
        return value
