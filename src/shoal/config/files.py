"""How nodes look after the files of models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shoal.config.base import Section, bytes_between

_KIB, _GIB = 1024, 1024**3


class Files(Section):
    """How nodes look after the files of models (docs/fleet.md)."""

    fetch: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether a node that lacks a model's directory gets its files from nodes that have it. auto: on, "
        "unless all nodes are on loopback.",
    )
    max_rate: Annotated[int, *bytes_between(64 * _KIB, 64 * _GIB)] | None = Field(
        default=None,
        description="Bytes per second that a node copies at most, as in 200MiB. By default as fast as it goes.",
    )
    connections: int = Field(
        default=4, ge=1, le=64, description="Ranges of files that a node asks for at the same time."
    )
    check: bool = Field(
        default=True,
        description="Whether nodes read the files of their models once to know their hashes, compare them with other "
        "nodes', and give them to nodes that lack them.",
    )
