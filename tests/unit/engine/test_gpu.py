from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pynvml
import pytest

from shoal.engine.gpu import (
    Gpu,
    GpuUse,
    Meter,
    compute_capability,
    driver_versions,
    list_gpus,
    usage,
    utilization,
    visible,
)

GIB = 1024**3
GPUS = tuple(
    Gpu(index=n, uuid=f"GPU-{'abc'[n]}0-1234", name="NVIDIA H200", total=141 * GIB, free=140 * GIB)
    for n in range(3)
)


def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver's library be there."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)


class Nvml:
    """NVML of a machine with two GPUs, the second of which shares the machine's memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = 0
        library(monkeypatch)
        for name in ("nvmlInit", "nvmlShutdown"):
            monkeypatch.setattr(pynvml, name, getattr(self, name))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"old" if handle else "new")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryBusWidth", self.bus_width)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMaxClockInfo", lambda handle, clock: 2619)

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def memory(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=80 * GIB, free=79 * GIB, used=GIB)

    def bus_width(self, handle: int) -> int:
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 5120


def test_the_busiest_of_some_gpus_counts_and_those_that_cannot_be_asked_are_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml = Nvml(monkeypatch)

    def rates(handle: int) -> SimpleNamespace:
        if handle == 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=(5, 80)[handle], memory=99)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    assert [utilization(which) for which in ((0,), (0, 1, 2), (2,), ())] == [0.05, 0.8, 0.0, 0.0]
    assert nvml.open == 0


def test_a_meter_keeps_the_library_open_until_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)
    shares: list[int | None] = [20, 60]
    errors: list[int] = []

    def rates(handle: int) -> SimpleNamespace:
        if errors:
            raise pynvml.NVMLError(errors.pop())
        if shares[handle] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=shares[handle], memory=99)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    opened = 0

    def init() -> None:
        nonlocal opened
        opened += 1
        nvml.open += 1

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    meter = Meter()
    assert [meter.mean(), meter.mean()] == [0.4, 0.4]
    assert (nvml.open, opened) == (1, 1)
    shares[0] = None
    assert meter.mean() == 0.6
    shares[1] = None
    assert meter.mean() is None
    assert (nvml.open, opened) == (1, 1)
    errors.append(pynvml.NVML_ERROR_GPU_IS_LOST)
    assert meter.mean() is None
    assert nvml.open == 0
    shares[:] = [10, 30]
    assert meter.mean() == 0.2
    assert (nvml.open, opened) == (1, 2)
    errors.append(pynvml.NVML_ERROR_GPU_IS_LOST)  # the first of them: the other one still tells
    assert meter.mean() == 0.3
    assert nvml.open == 0
    assert meter.mean() == 0.2
    meter.close()
    assert nvml.open == 0


def test_a_meter_without_gpus_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert [Meter().mean(), Meter().mean()] == [None, None]


def test_what_gpus_do_now_is_told_as_far_as_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)

    def only_first(value: object):
        def told(handle: int, *_: object) -> object:
            if handle == 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value

        return told

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", only_first(SimpleNamespace(gpu=25)))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", only_first(41))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", only_first(123_456))
    assert usage() == (
        GpuUse(
            index=0, name="new", utilization=0.25, total=80 * GIB, used=GIB, temperature=41, power=123.456
        ),
        GpuUse(index=1, name="old"),
    )
    assert nvml.open == 0


def test_the_driver_tells_its_version_and_cudas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("not there")))
    assert driver_versions() == {"driver": "", "cuda": ""}
    monkeypatch.undo()
    Nvml(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: 12080)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"570.86.15")
    assert driver_versions() == {"driver": "570.86.15", "cuda": "12.8"}


def test_the_lowest_capability_of_some_gpus_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)

    def capability(handle: int) -> tuple[int, int]:
        if handle == 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return ((9, 0), (8, 9))[handle]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCudaComputeCapability", capability)
    found = [compute_capability(which) for which in ((0,), (0, 1, 2), (2,), ())]
    assert found == [(9, 0), (8, 9), None, None]
    assert nvml.open == 0


def test_gpus_are_listed_as_nvml_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)
    assert list_gpus() == (
        # An H100's bus and clock, as NVML tells them: 3.35 TB/s, which is what its data sheet says.
        Gpu(
            index=0,
            uuid="GPU-0",
            name="new",
            total=80 * GIB,
            free=79 * GIB,
            bandwidth=3_352_320_000_000,
        ),
        Gpu(index=1, uuid="GPU-1", name="old", total=None, free=None),
    )
    assert nvml.open == 0


def test_a_driver_that_fails_on_the_way_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)

    def lost() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lost)
    assert list_gpus() == ()
    assert nvml.open == 0


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert list_gpus() == ()
    assert utilization((0,)) == 0


def test_a_library_without_its_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    library(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert list_gpus() == ()
    assert utilization((0,)) == 0


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("GPU-b0", [1]),
        ("GPU-c0-1234,0", [2, 0]),
        ("0,7,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_a_share_of_the_machine_is_respected(value: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in visible(GPUS, value)] == indices
