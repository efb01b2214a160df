"""What a model's engine arguments mean for its size: the ones of vLLM that change how memory is divided. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from shoal.config.schema import Model
from shoal.engine.command import cli_args, option

_UTILIZATION = 0.92  # vLLM's default (config/cache.py)
_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG])")
_FACTORS = {"k": 1000, "K": 1024, "m": 10**6, "M": 1024**2, "g": 10**9, "G": 1024**3}
# With these vLLM loads something else than the files say, or keeps it elsewhere: only it knows how much.
_OPAQUE = (
    *("--quantization", "-q", "--cpu-offload-gb", "--load-format", "--hf-overrides", "--speculative-config"),
    *("--num-gpu-blocks-override", "--enable-lora", "--model-loader-extra-config", "--offload-backend"),
)


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a vLLM engine that its size depends on.

    Attributes:
        tensor: tensor parallel size, None if the user left it open.
        stages: pipeline parallel size, None likewise.
        data: data parallel size.
        utilization: share of a GPU's memory that the engine may take.
        max_len: longest request in tokens; None for the model's own, -1 for as long as fits.
        dtype: of the weights, None for auto.
        cache_dtype: of keys and values, None for auto.
        cache_bytes: size of the KV cache per GPU where the user fixed it.
        batched_tokens: tokens computed in one step, None for vLLM's default.
        sequences: requests computed in one step, None likewise.
        opaque: the argument because of which sizes cannot be told, None if there is none.
    """

    tensor: int | None = None
    stages: int | None = None
    data: int = 1
    utilization: float = _UTILIZATION
    max_len: int | None = None
    dtype: str | None = None
    cache_dtype: str | None = None
    cache_bytes: int | None = None
    batched_tokens: int | None = None
    sequences: int | None = None
    opaque: str | None = None

    @property
    def gpus(self) -> int | None:
        """GPUs the user's own parallel arguments ask for, None if they say nothing."""
        if self.tensor is None and self.stages is None and self.data == 1:
            return None
        return (self.tensor or 1) * (self.stages or 1) * self.data

    def split(self, gpus: int) -> tuple[int, int]:
        """Return tensor and pipeline parallel size of an engine on `gpus` GPUs (0: on the CPU)."""
        if self.tensor is not None or self.stages is not None:
            return self.tensor or 1, self.stages or 1
        return max(1, gpus // self.data), 1


def engine_options(model: Model) -> EngineOptions:
    """Return what the settings and arguments of a model's engines say about their size."""
    words = cli_args(model.args)
    auto = {None, "", "auto"}

    def text(*names: str) -> str | None:
        value = option(words, *names)
        return None if value in auto else value

    return EngineOptions(
        tensor=model.tensor_parallel or _whole(words, "--tensor-parallel-size", "-tp"),
        stages=model.pipeline_parallel or _whole(words, "--pipeline-parallel-size", "-pp"),
        data=_whole(words, "--data-parallel-size", "-dp") or 1,
        utilization=_share(option(words, "--gpu-memory-utilization")),
        max_len=_length(words),
        dtype=text("--dtype"),
        cache_dtype=text("--kv-cache-dtype"),
        cache_bytes=_human(option(words, "--kv-cache-memory-bytes"))
        or _gib(model.env.get("VLLM_CPU_KVCACHE_SPACE")),
        batched_tokens=_human(option(words, "--max-num-batched-tokens")),
        sequences=_whole(words, "--max-num-seqs"),
        opaque=next((name for name in _OPAQUE if option(words, name) is not None), None),
    )


def _whole(words: Sequence[str], *names: str) -> int | None:
    value = option(words, *names)
    return int(value) if value and value.isascii() and value.isdecimal() and int(value) else None


def _length(words: Sequence[str]) -> int | None:
    value = option(words, "--max-model-len")
    if value in ("auto", "-1") or (value == "" and _negative(words)):
        return -1
    return _human(value)


def _negative(words: Sequence[str]) -> bool:
    """Return whether the length is written as two words, ``--max-model-len -1``."""
    places = [i for i, word in enumerate(words[:-1]) if word.replace("_", "-") == "--max-model-len"]
    return bool(places) and words[places[-1] + 1] == "-1"


def _human(value: str | None) -> int | None:
    """Return a number as vLLM takes it: 4096, 4k (thousands), 4K (1024s), 25.6k; None if it is none."""
    if not value:
        return None
    if value.isascii() and value.isdecimal():
        return int(value)
    found = _HUMAN.fullmatch(value)
    return int(float(found[1]) * _FACTORS[found[2]]) if found else None


def _gib(value: str | None) -> int | None:
    return int(value) * 1024**3 if value and value.isascii() and value.isdecimal() else None


def _share(value: str | None) -> float:
    try:
        share = float(value or _UTILIZATION)
    except ValueError:
        return _UTILIZATION
    return share if 0 < share <= 1 else _UTILIZATION
