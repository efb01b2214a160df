"""What the node's machine and processes take: CPU, memory, disk, network by psutil, GPUs by NVML. Takes some ms."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from shoal.engine.gpu import GpuUse, usage
from shoal.observe.catalog import family, one

_LOOPBACK = "lo"


def machine(
    disks: Mapping[str, Path],
    workers: Mapping[int, int] | None = None,
    gpus: Callable[[], Iterable[GpuUse]] = usage,
) -> Iterator[Metric]:
    """Yield the families about the machine, and those about the node process that every client of Prometheus has.

    Args:
        disks: what is kept where; paths that do not exist are looked for further up.
        workers: process ids of the gateway workers by their numbers.
        gpus: asks the GPUs.
    """
    yield from ProcessCollector(registry=CollectorRegistry()).collect()
    yield from _cpu_and_memory()
    yield from _disks(disks)
    yield from _network()
    yield from _workers(workers or {})
    yield from _gpus(gpus())


def _cpu_and_memory() -> Iterator[Metric]:
    yield one("shoal_node_cpus", psutil.cpu_count() or 0)
    times: Any = family("shoal_node_cpu_seconds")
    for mode, seconds in psutil.cpu_times()._asdict().items():
        if not mode.startswith("guest"):  # it is part of user and nice
            times.add_metric([mode], seconds)
    yield times
    yield one("shoal_node_load1", os.getloadavg()[0])
    memory = psutil.virtual_memory()
    yield one("shoal_node_memory_bytes", memory.total)
    yield one("shoal_node_memory_available_bytes", memory.available)


def _disks(disks: Mapping[str, Path]) -> Iterator[Metric]:
    size: Any = family("shoal_node_disk_bytes")
    free: Any = family("shoal_node_disk_free_bytes")
    for what, path in disks.items():
        there = next((p for p in (path, *path.parents) if p.exists()), None)
        if there is not None:
            with contextlib.suppress(OSError):
                found = psutil.disk_usage(str(there))
                size.add_metric([what], found.total)
                free.add_metric([what], found.free)
    yield size
    yield free


def _network() -> Iterator[Metric]:
    cards = [counts for name, counts in psutil.net_io_counters(pernic=True).items() if name != _LOOPBACK]
    yield one("shoal_node_network_receive_bytes", sum(c.bytes_recv for c in cards))
    yield one("shoal_node_network_transmit_bytes", sum(c.bytes_sent for c in cards))


def _workers(workers: Mapping[int, int]) -> Iterator[Metric]:
    cpu: Any = family("shoal_gateway_worker_cpu_seconds")
    memory: Any = family("shoal_gateway_worker_resident_memory_bytes")
    for index, pid in workers.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                cpu.add_metric([str(index)], times.user + times.system)
                memory.add_metric([str(index)], process.memory_info().rss)
    yield cpu
    yield memory


def _gpus(gpus: Iterable[GpuUse]) -> Iterator[Metric]:
    found = list(gpus)
    values: dict[str, Callable[[GpuUse], float | None]] = {
        "utilization_ratio": lambda gpu: gpu.utilization,
        "memory_bytes": lambda gpu: gpu.total,
        "memory_used_bytes": lambda gpu: gpu.used,
        "temperature_celsius": lambda gpu: gpu.temperature,
        "power_watts": lambda gpu: gpu.power,
    }
    for what, of in values.items():
        made: Any = family(f"shoal_gpu_{what}")
        for gpu in found:
            value = of(gpu)
            if value is not None:
                made.add_metric([str(gpu.index), gpu.name], value)
        yield made
