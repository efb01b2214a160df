"""The description of machines for `shoal plan --hardware`: what runs where can be planned before they are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from shoal.config.base import Entries, Line, Section, bytes_between
from shoal.config.document import parse
from shoal.config.errors import ConfigError, Problem, show_value
from shoal.config.load import read_text, without_empty
from shoal.config.messages import problem_of
from shoal.config.schema import Config

_MIB, _TIB = 1024**2, 1024**4


class GpuKind(Section):
    """Equal GPUs of a machine."""

    name: Line = Field(description="The product, as `nvidia-smi -L` tells it: NVIDIA H100 80GB HBM3.")
    memory: Annotated[int, *bytes_between(256 * _MIB, 4 * _TIB)] = Field(
        description="Memory of one, in bytes or as 81559MiB, which is how `nvidia-smi` tells it."
    )
    count: int = Field(default=1, ge=1, le=64, description="How many of them the machine has.")
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Memory bandwidth of one in GB/s, from its data sheet: what decides how fast tokens come. Without "
        "it, weights of nodes are computed from memory alone.",
    )


class MachineOfNode(Section):
    """The machine of a node."""

    node: Line = Field(
        description="The node as the cluster's file names it: host:port, or a host for all nodes on it."
    )
    gpus: Entries[GpuKind] = Field(
        default=(), description="Its GPUs, in the order of their indices. None by default."
    )
    memory: Annotated[int, *bytes_between(256 * _MIB, 64 * _TIB)] | None = Field(
        default=None, description="Main memory, in bytes or as 256GiB. Needed for engines without GPUs."
    )
    cores: int | None = Field(default=None, ge=1, le=4096, description="Logical processor cores.")


class Hardware(Section):
    """The machines of a cluster."""

    nodes: Entries[MachineOfNode] = Field(min_length=1, description="The machines.")

    def of(self, name: str, host: str) -> MachineOfNode | None:
        """Return the machine of the node `name` (``host:port``) on `host`, None if it is not described."""
        by_name = {machine.node: machine for machine in self.nodes}
        return by_name.get(name) or by_name.get(host)


def load_hardware(path: Path, config: Config, env: Mapping[str, str] = os.environ) -> Hardware:
    """Read a description of machines.

    Args:
        path: a YAML file.
        config: the cluster's configuration, whose nodes it describes.
        env: environment for ``${NAME}`` in values.

    Raises:
        ConfigError: it cannot be read or is wrong, names a node that is none, or leaves one out.
    """
    file = str(path)
    document = parse(read_text(path, file), file, env)
    if document.problems:
        raise ConfigError(document.problems)
    if not isinstance(document.data, dict):
        what = "it must be a mapping with the key `nodes`"
        raise ConfigError([Problem(file, f"this is {show_value(document.data)}; {what}", 1, 1)])
    data = without_empty(document.data)
    try:
        hardware = Hardware.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ConfigError([problem_of(d, data, document, Hardware) for d in details]) from None
    names = {n.name for n in config.nodes} | {n.host for n in config.nodes}
    problems = [
        document.problem(
            ("nodes", i, "node"), f"{machine.node} is no node of the cluster's file, nor a host of one"
        )
        for i, machine in enumerate(hardware.nodes)
        if machine.node not in names
    ]
    problems += [
        document.problem(("nodes",), f"node {node.name} is not described here; add its machine")
        for node in config.nodes
        if node.role != "gateway" and hardware.of(node.name, node.host) is None
    ]
    if problems:
        raise ConfigError(problems)
    return hardware
