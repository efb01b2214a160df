"""The numbers of ``GET /metrics``, under the names, labels and buckets of vLLM 0.32, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

_LENGTHS = (1, 2, 5)
_SECONDS = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)
_LONG_SECONDS = (*_SECONDS, 960.0, 1920.0, 7680.0)
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
_TTFT_LONG = (*_TTFT, 80.0, 160.0, 640.0, 2560.0)
_BETWEEN = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


def length_buckets(longest: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50 ... up to `longest`, vLLM's buckets for token counts."""
    buckets: list[float] = []
    scale = 1
    while True:
        for step in _LENGTHS:
            if step * scale > longest:
                return tuple(buckets)
            buckets.append(step * scale)
        scale *= 10


class Histogram:
    """A Prometheus histogram.

    Args:
        buckets: upper bounds, ascending, without +Inf.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.bounds = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """Everything one engine counts. The gauges of the moment come in with `render`.

    Args:
        model: value of the label ``model_name``: the first served name.
        max_model_len: longest request, tokens; it decides the buckets of token counts.
        kv_blocks: size of the KV cache, for ``vllm:cache_config_info``.
        block_size: tokens per block, for the same.
    """

    def __init__(self, model: str, max_model_len: int, kv_blocks: int, block_size: int) -> None:
        self._labels = {"engine": "0", "model_name": model}
        self._cache_info = {"block_size": str(block_size), "num_gpu_blocks": str(kv_blocks)}
        lengths = length_buckets(max_model_len)
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.generation_tokens = 0
        self.success = dict.fromkeys(FINISHED_REASONS, 0)
        self.rejections = 0
        self.request_prompt_tokens = Histogram(lengths)
        self.request_generation_tokens = Histogram(lengths)
        self.request_max_tokens = Histogram(lengths)
        self.request_n = Histogram((1, 2, 5, 10, 20))
        self.iteration_tokens = Histogram(_STEP_TOKENS)
        self.first_token = Histogram(_TTFT_LONG)
        self.between_tokens = Histogram(_BETWEEN)
        self.per_output_token = Histogram(_BETWEEN)
        self.e2e = Histogram(_LONG_SECONDS)
        self.queue_time = Histogram(_LONG_SECONDS)
        self.inference_time = Histogram(_LONG_SECONDS)
        self.prefill_time = Histogram(_LONG_SECONDS)
        self.decode_time = Histogram(_LONG_SECONDS)

    def render(
        self, *, running: int, waiting: int, kv_usage: float, queries: int, hits: int, preemptions: int
    ) -> str:
        """Return the whole page.

        Args:
            running: requests in execution.
            waiting: requests in the queue.
            kv_usage: fraction of the KV cache in use, 0 to 1.
            queries: tokens looked up in the prefix cache so far.
            hits: tokens found in it so far.
            preemptions: preemptions so far.
        """
        lines: list[str] = []
        for name, text, value in (
            ("num_requests_running", "Number of requests in model execution batches.", running),
            ("num_requests_waiting", "Number of requests waiting to be processed.", waiting),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", kv_usage),
        ):
            lines += _head(f"vllm:{name}", text, "gauge")
            lines.append(_sample(f"vllm:{name}", self._labels, value))
        for name, text, value in (
            ("prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", queries),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", hits),
            ("num_preemptions", "Cumulative number of preemption from the engine.", preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", self.prompt_tokens),
            (
                "prompt_tokens_cached",
                "Number of cached prompt tokens (local + external).",
                self.prompt_tokens_cached,
            ),
            ("generation_tokens", "Number of generation tokens processed.", self.generation_tokens),
        ):
            lines += _head(f"vllm:{name}_total", text, "counter")
            lines.append(_sample(f"vllm:{name}_total", self._labels, value))
        lines += _head("vllm:request_success_total", "Count of successfully processed requests.", "counter")
        for reason, count in self.success.items():
            labels = {"engine": "0", "finished_reason": reason, "model_name": self._labels["model_name"]}
            lines.append(_sample("vllm:request_success_total", labels, count))
        name = "vllm:admission_rejections_total"
        lines += _head(name, "Number of admission attempts rejected by a queue limit, by reason.", "counter")
        labels = {"model_name": self._labels["model_name"], "reason": "max_num_queued_reqs"}
        lines.append(_sample(name, labels, self.rejections))
        for name, text, histogram in self._histograms():
            lines += _head(f"vllm:{name}", text, "histogram")
            lines += _buckets(f"vllm:{name}", self._labels, histogram)
        lines += _head("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
        lines.append(_sample("vllm:cache_config_info", {**self._cache_info, "engine": "0"}, 1))
        return "\n".join(lines) + "\n"

    def _histograms(self) -> Iterator[tuple[str, str, Histogram]]:
        yield "request_prompt_tokens", "Number of prefill tokens processed.", self.request_prompt_tokens
        yield (
            "request_generation_tokens",
            "Number of generation tokens processed.",
            self.request_generation_tokens,
        )
        yield (
            "iteration_tokens_total",
            "Histogram of number of tokens per engine_step.",
            self.iteration_tokens,
        )
        yield "request_params_n", "Histogram of the n request parameter.", self.request_n
        yield (
            "request_params_max_tokens",
            "Histogram of the max_tokens request parameter.",
            self.request_max_tokens,
        )
        yield "time_to_first_token_seconds", "Histogram of time to first token in seconds.", self.first_token
        yield (
            "inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            self.between_tokens,
        )
        yield (
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            self.per_output_token,
        )
        yield "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", self.e2e
        yield (
            "request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            self.queue_time,
        )
        yield (
            "request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            self.inference_time,
        )
        yield (
            "request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            self.prefill_time,
        )
        yield (
            "request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            self.decode_time,
        )


def _head(name: str, text: str, kind: str) -> tuple[str, str]:
    # In the text format a counter's family carries the suffix of its samples.
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _label_value(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_label_value(labels[key])}"' for key in sorted(labels))
    return f"{name}{{{inside}}} {float(value)!r}"


def _buckets(name: str, labels: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    below = 0
    for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
        below += count
        upper = "+Inf" if bound is None else repr(float(bound))
        yield _sample(f"{name}_bucket", {**labels, "le": upper}, below)
    yield _sample(f"{name}_count", labels, below)
    yield _sample(f"{name}_sum", labels, histogram.total)
