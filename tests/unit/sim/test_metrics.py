from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from shoal.sim.metrics import Histogram, Metrics, length_buckets


def page(metrics: Metrics) -> dict[str, float]:
    """Read the page as Prometheus' own parser does: sample name and distinguishing label -> value."""
    text = metrics.render(running=2, waiting=1, kv_usage=0.25, queries=100, hits=40, preemptions=3)
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            extra = sample.labels.get("finished_reason") or sample.labels.get("le") or ""
            samples[f"{sample.name}{extra}"] = sample.value
            if sample.name not in ("vllm:admission_rejections_total", "vllm:cache_config_info"):
                assert sample.labels["model_name"] == 'a "quoted" model'
                assert sample.labels["engine"] == "0"
    return samples


def test_the_page_has_vllms_names_and_the_counted_values() -> None:
    metrics = Metrics('a "quoted" model', 4096, 1024, 16)
    metrics.generation_tokens = 7
    metrics.prompt_tokens = 11
    metrics.success["stop"] = 2
    metrics.first_token.observe(0.03)
    metrics.first_token.observe(0.3)
    samples = page(metrics)
    assert samples["vllm:num_requests_running"] == 2
    assert samples["vllm:num_requests_waiting"] == 1
    assert samples["vllm:kv_cache_usage_perc"] == 0.25
    assert samples["vllm:prefix_cache_queries_total"] == 100
    assert samples["vllm:prefix_cache_hits_total"] == 40
    assert samples["vllm:num_preemptions_total"] == 3
    assert samples["vllm:prompt_tokens_total"] == 11
    assert samples["vllm:generation_tokens_total"] == 7
    assert samples["vllm:request_success_totalstop"] == 2
    assert samples["vllm:request_success_totallength"] == 0
    assert samples["vllm:time_to_first_token_seconds_bucket0.04"] == 1
    assert samples["vllm:time_to_first_token_seconds_bucket0.5"] == 2
    assert samples["vllm:time_to_first_token_seconds_bucket+Inf"] == 2
    assert samples["vllm:time_to_first_token_seconds_count"] == 2
    assert samples["vllm:inter_token_latency_seconds_count"] == 0
    assert samples["vllm:cache_config_info"] == 1


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 2.1):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([1, 2, 1], 6.6)


def test_buckets_of_lengths_end_at_the_longest() -> None:
    assert length_buckets(256) == (1, 2, 5, 10, 20, 50, 100, 200)
