import os
from pathlib import Path

from shoal.engine.gpu import GpuUse
from shoal.observe.catalog import METRICS
from shoal.observe.machine import machine
from shoal.observe.metrics import exposed
from support.metrics import complaints, samples, total

GPUS = (
    GpuUse(index=0, name="H100", utilization=0.5, total=80, used=20, temperature=60, power=300.5),
    GpuUse(index=1, name="H100"),
)


def text(tmp_path: Path) -> str:
    disks = {"state": tmp_path / "not" / "yet", "model m": tmp_path}
    return exposed(machine(disks, {0: os.getpid(), 1: 2**22 + 1}, lambda: GPUS))


def test_the_machine_and_its_processes_are_told(tmp_path: Path):
    got = text(tmp_path)
    assert total(got, "shoal_node_cpus") == os.cpu_count()
    assert total(got, "shoal_node_cpu_seconds_total", mode="idle") > 0
    memory = total(got, "shoal_node_memory_bytes")
    assert 0 < total(got, "shoal_node_memory_available_bytes") < memory
    for holds in ("state", "model m"):
        size = total(got, "shoal_node_disk_bytes", holds=holds)
        assert 0 < total(got, "shoal_node_disk_free_bytes", holds=holds) < size
    assert total(got, "process_resident_memory_bytes") > 1e6
    assert total(got, "shoal_gateway_worker_cpu_seconds_total", worker="0") > 0
    assert samples(got, "shoal_gateway_worker_cpu_seconds_total", worker="1") == [], "it is gone"
    assert complaints(got) == []


def test_gpus_are_told_as_far_as_they_tell(tmp_path: Path):
    got = text(tmp_path)
    assert total(got, "shoal_gpu_utilization_ratio", gpu="0", name="H100") == 0.5
    assert total(got, "shoal_gpu_memory_used_bytes") == 20
    assert total(got, "shoal_gpu_power_watts") == 300.5
    assert samples(got, "shoal_gpu_temperature_celsius", gpu="1") == []


def test_only_what_is_in_the_catalogue_is_told(tmp_path: Path):
    for family in machine({}, {}, lambda: GPUS):
        assert family.name in METRICS or family.name.startswith("process_"), family.name
