"""What an engine says of its load under ``/metrics``."""

from __future__ import annotations

import re

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
        counted: it tells all this; where it does not, the rest is 0 and says nothing.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    finished: int = 0
    preemptions: int = 0
    counted: bool = True

    @property
    def progress(self) -> tuple[int, int, int, int, float]:
        """Changes whenever the engine gets something done.

        A long prefill in chunks moves none of the counters until it is through, but it does fill the KV cache. An
        engine with `running` requests whose `progress` stays the same does not compute.
        """
        return self.generated_tokens, self.prompt_tokens, self.steps, self.finished, self.kv_usage


_PREFIXES = ("vllm:", "sglang:", "llamacpp:", "tgi_")
_NAMES = {
    # vLLM 0.32, v1/metrics/loggers.py; gpu_cache_usage_perc until 0.9
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:iteration_tokens_total_count": "steps",
    "vllm:request_success_total": "finished",
    "vllm:num_preemptions_total": "preemptions",
    # SGLang with --enable-metrics, srt/metrics/collector.py
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "kv_usage",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generated_tokens",
    "sglang:inter_token_latency_seconds_count": "steps",
    "sglang:num_requests_total": "finished",
    # llama.cpp with --metrics, tools/server/server.cpp
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:tokens_predicted_total": "generated_tokens",
    "llamacpp:n_decode_total": "steps",
    # Text Generation Inference, backends/v3/src/backend.rs; its token counts are sums of histograms
    "tgi_batch_current_size": "running",
    "tgi_queue_size": "waiting",
    "tgi_request_input_length_sum": "prompt_tokens",
    "tgi_request_generated_tokens_sum": "generated_tokens",
    "tgi_batch_inference_success": "steps",
    "tgi_request_success": "finished",
}


def _samples_of(prefix: str) -> re.Pattern[str]:
    """Return what finds the samples of the names that begin with `prefix`: name, then labels and value."""
    names = sorted((re.escape(n.removeprefix(prefix)) for n in _NAMES if n.startswith(prefix)), key=len)
    return re.compile(rf"\n({prefix}(?:{'|'.join(reversed(names))}))[{{ ](.*)")


_SAMPLES = {prefix: _samples_of(prefix) for prefix in _PREFIXES}


def parse(text: str) -> Load:
    """Read the metrics of vLLM, SGLang, llama.cpp or Text Generation Inference; what is missing stays 0.

    Only the needed ones are looked for: a full parser takes 10 ms for vLLM's 650 lines.
    """
    text = f"\n{text}"
    sums: dict[str, float] = {}
    for prefix, samples in _SAMPLES.items():
        if prefix not in text:
            continue
        for name, rest in samples.findall(text):
            try:
                # Labels may hold anything, so the value is what follows the last blank (vLLM writes no timestamps).
                value = float(rest.rpartition(" ")[2])
            except ValueError:
                continue  # not a line of this format
            field = _NAMES[name]
            if field == "kv_usage":
                sums[field] = max(sums.get(field, 0.0), value)
            else:
                sums[field] = sums.get(field, 0.0) + value
    counted, usage = bool(sums), sums.pop("kv_usage", 0.0)
    counts = {field: int(value) for field, value in sums.items()}
    return Load(kv_usage=usage, counted=counted, **counts)
