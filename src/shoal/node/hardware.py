"""The machines a plan is made for: this one as it is, or machines as a file describes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import msgspec
import psutil

from shoal.config.hardware import Hardware
from shoal.config.schema import Config
from shoal.engine.gpu import Gpu, list_gpus, visible
from shoal.engine.machine import this_machine
from shoal.node.identity import local_nodes


class NodeHardware(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of a node.

    Attributes:
        gpus: its GPUs.
        memory: bytes that engines without GPUs may use (of one NUMA node); None if not told.
        cores: logical cores, 0 if not told.
        source: where this is known from, as a phrase.
        live: looked at now: what is free of its GPUs is known.
    """

    gpus: tuple[Gpu, ...] = ()
    memory: int | None = None
    cores: int = 0
    source: str
    live: bool = False


def described(hardware: Hardware, config: Config, file: str) -> dict[str, NodeHardware]:
    """Return by the name of each node the machine that a file describes.

    Args:
        hardware: the file's content.
        config: the configuration of the cluster.
        file: the file's name, for people.
    """
    found: dict[str, NodeHardware] = {}
    for node in config.nodes:
        machine = hardware.of(node.name, node.host)
        if machine is None:  # a gateway
            continue
        kinds = [kind for kind in machine.gpus for _ in range(kind.count)]
        gpus = tuple(
            Gpu(
                index=i,
                uuid=f"GPU-{i}",
                name=kind.name,
                total=kind.memory,
                free=kind.memory,
                bandwidth=round(kind.bandwidth * 1e9) if kind.bandwidth else None,
            )
            for i, kind in enumerate(kinds)
        )
        found[node.name] = NodeHardware(
            gpus=gpus, memory=machine.memory, cores=machine.cores or 0, source=file
        )
    return found


def seen(config: Config, env: Mapping[str, str] = os.environ) -> dict[str, NodeHardware]:
    """Return the machine of each node as it is known here: this one's own, and the others taken as equal to it."""
    machine = this_machine()
    here = NodeHardware(
        gpus=visible(list_gpus(), env.get("CUDA_VISIBLE_DEVICES")),
        memory=machine.memory or psutil.virtual_memory().total,
        cores=machine.cores,
        source="this machine",
        live=True,
    )
    local = {node.name for node in local_nodes(config)}
    elsewhere = msgspec.structs.replace(here, source="taken as equal to this machine", live=False)
    return {node.name: here if node.name in local else elsewhere for node in config.nodes}


def here_as_yaml() -> str:
    """Return this machine as an entry of a file for `shoal plan --hardware`; the host is to be filled in."""
    machine = this_machine()
    lines = [f"  - node: {socket.gethostname()}"]
    kinds: list[tuple[Gpu, int]] = []
    for gpu in list_gpus():
        if kinds and (kinds[-1][0].name, kinds[-1][0].total) == (gpu.name, gpu.total):
            kinds[-1] = (gpu, kinds[-1][1] + 1)
        else:
            kinds.append((gpu, 1))
    told = [(gpu, count) for gpu, count in kinds if gpu.total is not None]
    if told:
        lines.append("    gpus:")
    for gpu, count in told:
        bandwidth = f", bandwidth: {gpu.bandwidth / 1e9:.0f}" if gpu.bandwidth else ""
        memory = (gpu.total or 0) // 1024**2
        lines.append(f"      - {{name: {gpu.name}, memory: {memory}MiB, count: {count}{bandwidth}}}")
    lines += [f"    memory: {machine.memory // 1024**2}MiB", f"    cores: {machine.cores}"]
    return "\n".join(lines)
