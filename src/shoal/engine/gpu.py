"""The machine's GPUs, as NVIDIA's management library (NVML) tells them. It needs the driver and nothing of CUDA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import msgspec
import pynvml


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU.

    Attributes:
        index: NVML's index, in the order of PCI buses.
        uuid: ``GPU-...``, the same after every restart.
        name: of the product.
        total: memory in bytes; None on chips that share the machine's memory.
        free: memory in bytes that nobody uses now; None likewise.
        bandwidth: of the memory, in bytes per second; None where it is not told.
    """

    index: int
    uuid: str
    name: str
    total: int | None
    free: int | None
    bandwidth: int | None = None


def list_gpus() -> tuple[Gpu, ...]:
    """Return all GPUs of the machine in order of index; none without NVIDIA's driver.

    The first call may take seconds while the driver wakes the GPUs: call it in a thread.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def visible(gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> tuple[Gpu, ...]:
    """Return those of `gpus` that a ``CUDA_VISIBLE_DEVICES`` leaves, which NVML does not look at.

    A batch system or a container gives a program its share of a machine in this way.

    Args:
        gpus: what NVML lists.
        cuda_visible_devices: the variable's value, indices in the order of PCI buses or beginnings of UUIDs; None if
            it is not set. As for CUDA, the list ends at the first entry that names no GPU.
    """
    if cuda_visible_devices is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in cuda_visible_devices.split(","):
        name = entry.strip()
        found = [gpu for gpu in gpus if name and (str(gpu.index) == name or gpu.uuid.startswith(name))]
        by_index = [gpu for gpu in found if str(gpu.index) == name]
        if not found:
            break
        chosen.append((by_index or found)[0])
    return tuple(chosen)


def utilization(indices: Iterable[int]) -> float:
    """Return for how much of the last moment (NVML's sample: up to a second) the busiest of some GPUs computed, 0 to 1.

    0 for those that NVML cannot ask. Takes milliseconds: call it in a thread.
    """
    busiest = 0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0.0
    try:
        for index in indices:
            with contextlib.suppress(pynvml.NVMLError):
                rates = pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index))
                busiest = max(busiest, int(rates.gpu))
    finally:
        pynvml.nvmlShutdown()
    return busiest / 100


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    total = free = None
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError_NotSupported:
        pass  # Grace and Jetson: the memory is the machine's
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        total=total,
        free=free,
        bandwidth=_bandwidth(handle),
    )


def _bandwidth(handle: object) -> int | None:
    """Return what the data sheet tells in bytes per second: bus width x highest memory clock x 2 (double data rate)."""
    try:
        bits = int(pynvml.nvmlDeviceGetMemoryBusWidth(handle))
        mhz = int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))
    except pynvml.NVMLError:
        return None
    return bits // 8 * mhz * 1_000_000 * 2 or None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
