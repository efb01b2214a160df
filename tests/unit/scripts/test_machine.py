from pathlib import Path

import pytest

from lib.machine import GIB, Gpu, available_memory, choose_engine, engines_that_fit, parse_gpus

H200 = Gpu("NVIDIA H200", (9, 0), 580)


def test_gpus_are_read_from_nvidia_smi() -> None:
    text = "NVIDIA H200, 9.0, 580.95.05\nNVIDIA GeForce RTX 3090, 8.6, 580.95.05\n"
    assert parse_gpus(text) == [H200, Gpu("NVIDIA GeForce RTX 3090", (8, 6), 580)]


@pytest.mark.parametrize("text", ["", "No devices were found\n", "NVIDIA X, [N/A], 580.1\n", "a, b, c, d\n"])
def test_lines_that_are_no_gpus_are_passed_over(text: str) -> None:
    assert parse_gpus(text) == []


@pytest.mark.parametrize(
    ("gpus", "engine", "reason"),
    [
        ([], "cpu", "no NVIDIA GPU"),
        ([H200], "vllm", "NVIDIA H200"),
        ([H200, H200, H200], "vllm", "and 2 more"),
        ([Gpu("Tesla V100", (7, 0), 580)], "cpu", "too old"),
        ([Gpu("NVIDIA L4", (8, 9), 535)], "cpu", "driver 535"),
        ([Gpu("Tesla P4", (6, 1), 580), Gpu("NVIDIA T4", (7, 5), 580)], "vllm", "T4"),
    ],
)
def test_the_build_of_vllm_follows_the_gpus(gpus: list[Gpu], engine: str, reason: str) -> None:
    chosen, why = choose_engine(gpus)
    assert chosen == engine
    assert reason in why


def _machine(root: Path, available: int) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n")
    return root


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert available_memory(_machine(tmp_path, 8 * GIB)) == 8 * GIB


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    root = _machine(tmp_path, 64 * GIB)
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.current").write_text(f"{5 * GIB}\n")
    (group / "memory.stat").write_text(f"anon {3 * GIB}\ninactive_file {2 * GIB}\n")
    assert available_memory(root) == 5 * GIB
    (group / "memory.max").write_text("max\n")
    assert available_memory(root) == 64 * GIB


def test_the_first_version_of_cgroups_counts_too(tmp_path: Path) -> None:
    root = _machine(tmp_path, 64 * GIB)
    group = root / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(4 * GIB))
    (group / "memory.usage_in_bytes").write_text(str(1 * GIB))
    (group / "memory.stat").write_text("total_inactive_file 0\n")
    assert available_memory(root) == 3 * GIB


@pytest.mark.parametrize(("gib", "fit"), [(0, 0), (2, 0), (3, 1), (8, 2), (9, 3), (99, 3)])
def test_no_more_engines_than_fit_and_than_wanted(gib: int, fit: int) -> None:
    assert engines_that_fit(gib * GIB, 3 * GIB, 3) == fit
