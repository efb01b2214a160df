"""How many requests engines get at the same time, and how further ones wait."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from shoal.config.base import Seconds, Section, bytes_between

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_MOST = 1_000_000


def _number_or_word(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST
    if value not in ("auto", "off") and not is_number:
        raise ValueError(f"it must be a whole number from 1 to {_MOST}, or auto, or off")
    return value


InFlightLimit = Annotated[
    Annotated[int, Field(ge=1, le=_MOST)] | Literal["auto", "off"], BeforeValidator(_number_or_word)
]
"""Requests that an engine gets at the same time: a number, ``auto`` (from its own limits) or ``off``."""


class Admission(Section):
    """How many requests engines get at the same time, and how further ones wait."""

    max_in_flight: InFlightLimit = Field(
        default="auto",
        description="Requests that an engine gets at the same time from all gateways together; further ones wait in "
        "the gateways. auto: an eighth more than the engine computes at once (its max-num-seqs), external engines "
        "without limit. off: no limit.",
    )
    max_queued: int = Field(
        default=2000,
        ge=0,
        le=_MOST,
        description="Requests that wait for a model in each gateway worker; more get 429. 0: none waits.",
    )
    max_queued_bytes: Annotated[int, *bytes_between(64 * _KIB, 64 * _GIB)] = Field(
        default=256 * _MIB,
        description="Size of their bodies together, in bytes or as 256MiB; more get 429.",
    )
    max_wait: Seconds = Field(
        default=60.0,
        gt=0,
        le=86400,
        description="Seconds that a request waits at most before it gets 503. Batch requests wait for as long as "
        "their clients do.",
    )
    batch_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of an engine's max_in_flight that requests with the priority batch may bring it to.",
    )
