"""What an engine says of its load under ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Load of an engine, all of its data-parallel ranks together.

    Attributes:
        running: requests it computes.
        waiting: requests queued in it.
        kv_usage: fraction of its KV cache in use, 0 to 1; the fullest rank's.
        prompt_tokens: prompt tokens it has taken in since its start.
        generated_tokens: tokens it has generated since its start.
        steps: engine steps that had a result, since its start.
        finished: requests it has finished, however they ended, since its start.
        preemptions: requests it had to put back for lack of KV cache, since its start.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    finished: int = 0
    preemptions: int = 0

    @property
    def progress(self) -> tuple[int, int, int, int, float]:
        """Changes whenever the engine gets something done.

        A long prefill in chunks moves none of the counters until it is through, but it does fill the KV cache. An
        engine with `running` requests whose `progress` stays the same does not compute.
        """
        return self.generated_tokens, self.prompt_tokens, self.steps, self.finished, self.kv_usage


def parse(text: str) -> Load:
    """Read the metrics of vLLM, whose names are those of 0.32 (``v1/metrics/loggers.py``); what is missing stays 0.

    Only the eight needed ones are looked at: a full parser takes 10 ms for vLLM's 650 lines.
    """
    sums: dict[str, float] = {}
    fullest = 0.0
    for name, value in _samples(text):
        if name in {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}:  # the latter until 0.9
            fullest = max(fullest, value)
        else:
            sums[name] = sums.get(name, 0.0) + value
    return Load(
        running=int(sums.get("vllm:num_requests_running", 0)),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        kv_usage=fullest,
        prompt_tokens=int(sums.get("vllm:prompt_tokens_total", 0)),
        generated_tokens=int(sums.get("vllm:generation_tokens_total", 0)),
        steps=int(sums.get("vllm:iteration_tokens_total_count", 0)),
        finished=int(sums.get("vllm:request_success_total", 0)),
        preemptions=int(sums.get("vllm:num_preemptions_total", 0)),
    )


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line[: line.index("{")] if "{" in line else line.partition(" ")[0]
        if name.endswith(("_bucket", "_created")):
            continue
        try:
            # Labels may hold anything, so the value is what follows the last blank (vLLM writes no timestamps).
            yield name, float(line.rpartition(" ")[2])
        except ValueError:
            continue  # not a line of this format
