"""What happens when something fails."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shoal.config.base import Seconds, Section, bytes_between

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3


class Backup(Section):
    """How many nodes keep each file and batch."""

    copies: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Nodes that have a file or batch on their disks before it is accepted, the one that took it "
        "included; all of them where there are fewer.",
    )
    repair_after: Seconds = Field(
        default=300.0,
        gt=0,
        le=604800,
        description="Seconds that a node with a copy must be lost before another one gets what it had.",
    )


class Recovery(Section):
    """What happens when something fails, and when a node stops."""

    restart_delay: Seconds = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="Seconds before the first restart of an engine; doubles with each further one. At most "
        "restart_delay_max.",
    )
    restart_delay_max: Seconds = Field(
        default=60.0,
        gt=0,
        le=86400,
        description="Longest time in seconds before a restart. At least restart_delay.",
    )
    healthy_after: Seconds = Field(
        default=120.0,
        gt=0,
        le=86400,
        description="Seconds an engine must be ready before its restarts are forgotten. More than "
        "engines.probe_interval.",
    )
    drain_timeout: Seconds = Field(
        default=30.0,
        ge=0,
        le=86400,
        description="Seconds for running requests to finish when a node is stopped.",
    )
    takeover_after: Seconds = Field(
        default=5.0,
        gt=0,
        le=86400,
        description="Seconds a node must be lost before a standby node takes over its engines, and a node with "
        "copies its batches. More than 2 x cluster.heartbeat_interval.",
    )
    return_after: Seconds = Field(
        default=30.0,
        gt=0,
        le=86400,
        description="Seconds the lost node must be back, with all its engines ready, before the standby node gives "
        "back. More than cluster.heartbeat_interval x cluster.suspect_after + cluster.confirm_timeout.",
    )
    backup: Backup = Field(default=Backup(), description="Copies of files and batches.")
    resume: Literal["exact", "text", "off"] = Field(
        default="exact",
        description="What becomes of a stream whose engine fails. exact: another engine continues it from its token "
        "ids, where there are any, else from its text. text: always from its text. off: it ends with an error.",
    )
    resume_buffer: Annotated[int, *bytes_between(_KIB, 64 * _GIB)] = Field(
        default=4 * _MIB,
        description="What is kept of a stream to continue it, in bytes or as 4MiB; a longer one ends with an error "
        "when its engine fails.",
    )
    max_resumes: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="How often one stream is continued before it ends with an error.",
    )
    stall_timeout: Seconds = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds in which an engine that has requests gets nothing done until it counts as hung: its "
        "streams move to another engine and it is restarted. One that computes meanwhile has six times as long. More "
        "than engines.probe_interval.",
    )
