"""What nodes do for those who watch them."""

from __future__ import annotations

from pydantic import Field

from shoal.config.base import FilePath, Section


class Monitoring(Section):
    """What nodes do for those who watch them."""

    targets_file: FilePath | None = Field(
        default=None,
        description="File that nodes keep current with the list of all nodes, for Prometheus to find them by "
        "(file_sd_configs; `shoal monitor init` says which). Its directory must exist; nodes on machines without it "
        "write nothing. The path is relative to the configuration file.",
    )
