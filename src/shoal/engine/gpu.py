"""The machine's GPUs, as NVIDIA's management library (NVML) tells them. It needs the driver and nothing of CUDA."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec


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
    with _nvml() as nvml:
        if nvml is None:
            return ()
        try:
            return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError:
            return ()


def driver_versions() -> dict[str, str]:
    """Return the versions of NVIDIA's ``driver`` and of the ``cuda`` it is for, "" without one."""
    with _nvml() as nvml:
        if nvml is None:
            return {"driver": "", "cuda": ""}
        try:
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
            driver = _text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError:
            return {"driver": "", "cuda": ""}
    return {"driver": driver, "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}"}


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
    with _nvml() as nvml:
        for index in indices if nvml is not None else ():
            with contextlib.suppress(nvml.NVMLError):
                rates = nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByIndex(index))
                busiest = max(busiest, int(rates.gpu))
    return busiest / 100


def compute_capability(indices: Iterable[int]) -> tuple[int, int] | None:
    """Return the lowest CUDA compute capability of some GPUs, such as (9, 0); None where it cannot be told."""
    found: list[tuple[int, int]] = []
    with _nvml() as nvml:
        for index in indices if nvml is not None else ():
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
                found.append((int(major), int(minor)))
    return min(found, default=None)


class GpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a GPU does now; None for what it does not tell.

    Attributes:
        index: NVML's index.
        name: of the product.
        utilization: share of the last moment in which it computed, 0 to 1.
        total: memory in bytes.
        used: memory in use, bytes.
        temperature: degrees Celsius.
        power: watts.
    """

    index: int
    name: str
    utilization: float | None = None
    total: int | None = None
    used: int | None = None
    temperature: float | None = None
    power: float | None = None


def usage() -> tuple[GpuUse, ...]:
    """Return what all GPUs of the machine do now; none without NVIDIA's driver. Takes milliseconds."""
    with _nvml() as nvml:
        if nvml is None:
            return ()
        try:
            return tuple(_use(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError:
            return ()


class Meter:
    """Tells again and again how busy the machine's GPUs are. Not for two threads at once.

    NVML stays open in between: to open and close it takes over 10 ms of CPU time, a question less than 0.1.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._nvml: Any = None

    def mean(self) -> float | None:
        """Return the mean utilisation of the GPUs, 0 to 1; None where none tells. The first time takes milliseconds."""
        nvml = self._nvml = self._nvml or self._open.enter_context(_nvml())
        if nvml is None:
            self.close()
            return None
        told, failed = [], False
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError:
            handles, failed = [], True
        for handle in handles:
            try:
                told.append(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except nvml.NVMLError_NotSupported:
                pass
            except nvml.NVMLError:
                failed = True
        if failed:  # a GPU is lost, or was reset: the next time begins anew
            self.close()
        return sum(told) / len(told) if told else None

    def close(self) -> None:
        """Give NVML back, until the next question."""
        self._nvml = None
        self._open.close()


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """Yield NVML's bindings, ready for questions; None without NVIDIA's driver.

    They are imported only beside the driver's library: that takes a twentieth of a node's start.
    """
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield None
        return
    import pynvml  # noqa: PLC0415

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _use(nvml: Any, index: int) -> GpuUse:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def told(question: Callable[[], Any]) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return question()
        return None

    memory = told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    rates = told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    power = told(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return GpuUse(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        utilization=None if rates is None else rates.gpu / 100,
        total=None if memory is None else int(memory.total),
        used=None if memory is None else int(memory.used),
        temperature=told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        power=None if power is None else power / 1000,
    )


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total = free = None
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError_NotSupported:
        pass  # Grace and Jetson: the memory is the machine's
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total=total,
        free=free,
        bandwidth=_bandwidth(nvml, handle),
    )


def _bandwidth(nvml: Any, handle: object) -> int | None:
    """Return what the data sheet tells in bytes per second: bus width x highest memory clock x 2 (double data rate)."""
    try:
        bits = int(nvml.nvmlDeviceGetMemoryBusWidth(handle))
        mhz = int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))
    except nvml.NVMLError:
        return None
    return bits // 8 * mhz * 1_000_000 * 2 or None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
