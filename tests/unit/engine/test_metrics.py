from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.engine.metrics import Load, parse
from unit.engine.fakes import DATA

BUSY = (DATA / "metrics.txt").read_text()


def test_metrics_of_a_busy_vllm_are_read() -> None:
    load = parse(BUSY)
    assert (load.running, load.waiting, load.preemptions) == (8, 4, 0)
    assert 0 < load.kv_usage < 0.01
    assert load.prompt_tokens == 100_400
    assert load.generated_tokens > 1000
    assert load.steps > 100
    assert load.finished == 1


def test_ranks_are_added_up_and_the_fullest_cache_counts() -> None:
    load = parse(
        'vllm:num_requests_running{engine="0",model_name="m"} 2.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 3.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        'vllm:kv_cache_usage_perc{engine="1"} 0.75\n'
        'vllm:generation_tokens_total{engine="0"} 1.5e+06\n'
    )
    assert load == Load(running=5, kv_usage=0.75, generated_tokens=1_500_000)


def test_labels_may_hold_anything() -> None:
    assert parse('vllm:num_requests_waiting{model_name="a} b{ 9 \\" c"} 4.0').waiting == 4


def test_the_name_of_older_versions_is_known() -> None:
    assert parse('vllm:gpu_cache_usage_perc{model_name="m"} 0.5').kv_usage == 0.5


def test_breakdowns_are_not_taken_for_totals() -> None:
    text = (
        'vllm:num_requests_waiting{a="b"} 1.0\nvllm:num_requests_waiting_by_reason{reason="capacity"} 1.0\n'
    )
    assert parse(text).waiting == 1


def test_other_text_is_an_idle_engine_that_counts_nothing() -> None:
    assert parse("<html>\nvllm:oops\nvllm:num_requests_running x\n") == Load(counted=False)


def test_other_programs_count_in_their_own_names() -> None:
    sglang = parse(
        'sglang:num_running_reqs{model_name="m"} 3.0\nsglang:num_queue_reqs{model_name="m"} 1.0\n'
        'sglang:token_usage{model_name="m"} 0.25\nsglang:generation_tokens_total{model_name="m"} 9.0\n'
        'sglang:inter_token_latency_seconds_bucket{le="1"} 7.0\nsglang:inter_token_latency_seconds_count 8.0\n'
    )
    assert sglang == Load(running=3, waiting=1, kv_usage=0.25, generated_tokens=9, steps=8)
    llama = parse(
        "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\nllamacpp:n_decode_total 40\n"
        "llamacpp:prompt_tokens_total 5\nllamacpp:tokens_predicted_total 6\n"
    )
    assert llama == Load(running=2, waiting=1, prompt_tokens=5, generated_tokens=6, steps=40)
    tgi = parse(
        'tgi_queue_size 1\ntgi_batch_current_size 2\ntgi_batch_inference_success{method="prefill"} 3\n'
        'tgi_batch_inference_success{method="decode"} 4\ntgi_request_generated_tokens_sum 12.0\n'
    )
    assert tgi == Load(running=2, waiting=1, generated_tokens=12, steps=7)


def test_progress_changes_with_tokens_and_with_a_filling_cache() -> None:
    before = Load(running=1, generated_tokens=5, kv_usage=0.1)
    assert before.progress == Load(running=1, generated_tokens=5, kv_usage=0.1).progress
    assert before.progress != Load(running=1, generated_tokens=6, kv_usage=0.1).progress
    assert before.progress != Load(running=1, generated_tokens=5, kv_usage=0.2).progress
    assert before.progress == Load(running=2, waiting=7, generated_tokens=5, kv_usage=0.1).progress


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    parse(text)
    parse("vllm:" + text)
