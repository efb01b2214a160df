"""Against logs that vLLM 0.32 wrote, paths shortened."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engine import diagnosis, logs
from unit.engine.fakes import DATA

READY = (DATA / "ready.log").read_bytes().decode()


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("head_dim", "Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0"),
        (
            "kv_too_big",
            "Available memory on node 0 (8.31/10.59 GiB) on kv cache allocation is less than requested memory for kv"
            " (100.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other"
            " processes.",
        ),
        (
            "no_compiler",
            "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx:"
            " (None, '/nonexistent/g++')",
        ),
        ("port_taken", "OSError: [Errno 98] Address already in use"),
        ("ready", ""),
    ],
)
def test_the_error_that_knows_the_cause_is_found(log: str, error: str) -> None:
    assert diagnosis.last_error(DATA / f"{log}.log") == error


def test_the_message_of_a_validation_error_is_found_below_its_count() -> None:
    error = diagnosis.last_error(DATA / "too_long.log")
    assert error.startswith(
        "ValidationError: User-specified max_model_len (999999) is greater than the derived"
    )
    assert len(error) <= 500


def test_a_model_that_is_not_there_is_named() -> None:
    assert "'/nonexistent/model'" in diagnosis.last_error(DATA / "no_path.log")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("usage: vllm\nvllm: error: unrecognized arguments: --x\n", "unrecognized arguments: --x"),
        ("vllm serve: error: argument --port: invalid int\n", "argument --port: invalid int"),
        ("/venv/python: No module named shoal.sim\n", "/venv/python: No module named shoal.sim"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1:\n", "Fatal Python error: Segmentation fault"),
        ("Traceback (most recent call last):\n  File \"x\"\nModuleNotFoundError: No module named 'vllm'\n",
         "ModuleNotFoundError: No module named 'vllm'"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n",
         "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("ValueError: one\nRuntimeError: Engine core initialization failed. See above.\n", "ValueError: one"),
        ("ValueError: one\nKeyError: 'two'\n", "KeyError: 'two'"),
        ("(APIServer pid=1) ERROR 11-24 02:30:33 [x.py:1] The disk is full\n", "The disk is full"),
        ("(APIServer pid=1) INFO 11-24 02:30:33 [x.py:1] fine\n", ""),
        ("AssertionError\n", "AssertionError"),
        ("(APIServer pid=1) WARNING 11-24 03:14:32 [core_client.py:817] [shutdown] MPClient: engine core exited "
         "unexpectedly; starting cleanup\n(APIServer pid=1) ERROR 11-24 03:14:32 [async_llm.py:906] "
         "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)\n",
         "engine core exited unexpectedly"),
        ("Loading: 5%| 1/2 [00:01<00:01, 1.0it/s] SomeError: x\n", ""),
        ("", ""),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_errors_of_every_kind_are_found(text: str, error: str) -> None:
    assert diagnosis.last_error_in(text) == error


def test_errors_of_the_start_before_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("ValueError: old\n")
    descriptor = logs.open_log(log)
    logs.write_start(descriptor, "m-0", ["python"])
    assert diagnosis.last_error(log) == ""
    assert diagnosis.progress(log) == "starting"


def test_loading_is_told_phase_by_phase() -> None:
    phases: list[str] = []
    lines = READY.splitlines(keepends=True)
    for end in range(len(lines) + 1):
        phase = diagnosis.progress_in("".join(lines[:end]))
        if phase not in phases[-1:]:
            phases.append(phase)
    assert phases == [
        "starting",
        "reading the model's configuration",
        "initialising the engine",
        "loading weights",
        "loading weights 0 %",
        "loading weights 100 %",
        "weights loaded",
        "creating the KV cache",
        "engine initialised",
        "starting the HTTP server",
    ]


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:01<00:01]", "loading weights 50 %"),
        ("Loading safetensors using Runai Model Streamer:  25% Completed | 1/4", "loading weights 25 %"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|####      | 2/5", "capturing CUDA graphs 40 %"),
        ("model-00001-of-00004.safetensors:  12%|#2  | 600M/4.98G [00:10<01:10, 60MB/s]", "downloading 12 %"),
        ("Fetching 4 files:   0%|          | 0/4 [00:00<?, ?it/s]", "downloading 0 %"),
        ("(Worker pid=1) INFO 11-24 02:35:24 [cpu_model_runner.py:87] Warming up model for the compilation...",
         "compiling"),
        ("(Worker pid=1) INFO 11-24 02:35:42 [cpu_model_runner.py:91] Warming up done.", "compiled"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_bars_and_other_phases_are_understood(line: str, phase: str) -> None:
    assert diagnosis.progress_in(f"earlier\n{line}\nsomething else\n") == phase
    assert diagnosis.progress_in(f"earlier\rbefore\r{line}\r") == phase


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    assert len(diagnosis.last_error_in(text)) <= 500
    assert diagnosis.progress_in(text)
