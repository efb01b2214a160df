"""How many engines a model has on Ray, and when that changes."""

from __future__ import annotations

from pydantic import Field

from shoal.config.base import Seconds, Section


class Replicas(Section):
    """How many engines a model has on Ray (docs/ray.md). Without `min` and `max`: one set on each of Ray's nodes.

    Engines across nodes count as one each; without `min` and `max` there are as many as the nodes give.
    """

    min: int | None = Field(
        default=None, ge=1, le=4096, description="Engines there always are. By default 1, where max is given."
    )
    max: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Engines there are at most. By default min, where that is given.",
    )
    queue: int = Field(
        default=4,
        ge=1,
        le=1_000_000,
        description="Requests waiting for each engine, in gateways and in engines, above which more are started.",
    )
    ttft: Seconds | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Seconds to the first token that nine of ten streams should keep within, else more engines are "
        "started. By default only the queue counts.",
    )
    up_after: Seconds = Field(
        default=10.0,
        ge=0,
        le=86400,
        description="Seconds that there must be too much for the engines before more are started.",
    )
    down_after: Seconds = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Seconds that one engine less must have been enough before one stops. At least up_after.",
    )
    cpus: float = Field(
        default=1.0, ge=0, le=4096, description="CPUs, as Ray counts them, that each engine holds."
    )

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Least and largest number of engines, None for as many as Ray's nodes hold."""
        if self.min is None and self.max is None:
            return None
        least = self.min if self.min is not None else 1
        return least, self.max if self.max is not None else least
