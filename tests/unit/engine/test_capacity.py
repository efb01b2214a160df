"""How many requests an engine is given at the same time."""

import pytest

from shoal.engine.capacity import capacity
from shoal.engine.gpu import Gpu
from shoal.engine.spec import EngineSpec

GIB = 1024**3


def spec(*args: str, kind: str = "vllm", gpus: tuple[int, ...] | None = ()) -> EngineSpec:
    return EngineSpec(
        id="m-0",
        model="m",
        kind=kind,
        model_path="m",
        served_name="m",
        args=args,
        gpus=gpus,  # type: ignore[arg-type]
    )


def gpu(name: str, memory: int | None, index: int = 0) -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{index}", name=name, total=memory and memory * GIB, free=None)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--max-num-seqs", "64"), 72),
        (("--max_num_seqs=64",), 72),
        (("--max-num-seqs", "4"), 5),
        (("--max-num-seqs", "1"), 2),
        (("--max-num-seqs", "9"), 11),
        (("--max-num-seqs", "64", "--data-parallel-size", "2"), 144),
        (("--max-num-seqs", "64", "--max-num-active-seqs", "32"), 36),
        (("--max-num-seqs", "64", "--max-num-queued-reqs", "66"), 66),
        (("--max-num-seqs", "64", "--max-num-queued-reqs", "1k"), 72),
        (("--max-num-seqs", "64", "-dp", "2", "--max-num-queued-reqs", "100"), 100),
        ((), 144),  # on a CPU
        (("-tp", "2"), 288),
        (("--performance-mode", "throughput"), 288),
        (("--max-num-batched-tokens", "32"), 36),
        (("--max-num-seqs", "many"), 0),
    ],
)
def test_an_engine_gets_an_eighth_more_than_it_computes_at_once(args, expected):
    assert capacity(spec(*args)) == expected


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([gpu("NVIDIA H100 80GB HBM3", 80)], 1152),
        ([gpu("NVIDIA A100-SXM4-80GB", 80)], 288),
        ([gpu("NVIDIA L4", 22)], 288),
        ([gpu("NVIDIA B200", 180)], 1152),
        ([gpu("NVIDIA GB10", None)], 1152),  # memory not known: rather too much than too little
        ([gpu("NVIDIA L4", 22, index=7)], 1152),
        ([], 1152),
    ],
)
def test_without_an_argument_it_is_what_vllm_takes_for_the_gpu(gpus, expected):
    assert capacity(spec(gpus=(0,)), gpus) == expected
    assert capacity(spec("--max-num-seqs=8", gpus=(0,)), gpus) == 9


def test_an_engine_that_sees_whatever_gpus_there_are_is_taken_for_a_large_one():
    assert capacity(spec(gpus=None), [gpu("NVIDIA L4", 22)]) == 1152


def test_the_simulated_engine_has_its_own_default():
    assert capacity(spec(kind="sim")) == 288
    assert capacity(spec("--max-num-seqs", "4", kind="sim")) == 5


def test_of_a_program_that_is_not_vllm_it_is_not_known() -> None:
    assert capacity(spec("--max-num-seqs", "7", kind="command")) == 0
