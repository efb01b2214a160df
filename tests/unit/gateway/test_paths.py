"""Which path goes where."""

from __future__ import annotations

import pytest

from shoal.gateway.paths import Endpoint, classify, model_of


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        (b"/v1/chat/completions", Endpoint.JSON),
        (b"/v1/chat/completions?beta=true", Endpoint.JSON),
        (b"/v1/messages/count_tokens", Endpoint.JSON),
        (b"/v1/responses", Endpoint.JSON),
        (b"/v2/rerank", Endpoint.JSON),
        (b"/inference/v1/generate", Endpoint.JSON),
        (b"/generative_scoring", Endpoint.JSON),
        (b"/tokenize", Endpoint.JSON),
        (b"/invocations", Endpoint.JSON),
        (b"/v1/audio/transcriptions", Endpoint.FORM),
        (b"/v1/responses/resp_1", Endpoint.BARE),
        (b"/v1/responses/resp_1/cancel", Endpoint.BARE),
        (b"/tokenizer_info", Endpoint.BARE),
        (b"/v1/realtime?model=m", Endpoint.REALTIME),
        (b"/v1/models", Endpoint.MODELS),
        (b"/v1/models/org/model", Endpoint.MODEL),
        (b"/health", Endpoint.HEALTH),
        (b"/ping", Endpoint.HEALTH),
        (b"/version", Endpoint.VERSION),
        (b"/", Endpoint.CONSOLE),
        (b"/console/", Endpoint.CONSOLE),
        (b"/console/1/views/logs.js", Endpoint.CONSOLE),
        (b"/metrics", Endpoint.CONTROL),
        (b"/metrics/cluster", Endpoint.CONTROL),
        (b"/shoal", Endpoint.CONTROL),
        (b"/shoal/v1/status?x", Endpoint.CONTROL),
        (b"/v1/files", Endpoint.CONTROL),
        (b"/v1/files/file-1/content", Endpoint.CONTROL),
        (b"/v1/batches/b-1/cancel", Endpoint.CONTROL),
    ],
)
def test_paths_that_lead_somewhere(target, endpoint):
    assert classify(target) is endpoint


ADMINISTRATIVE = """
/sleep /wake_up /is_sleeping /release_kv_cache_memory /reset_prefix_cache /reset_mm_cache /reset_encoder_cache
/collective_rpc /pause /resume /is_paused /scale_elastic_ep /is_scaling_elastic_ep /server_info /abort_requests
/inference/v1/abort_requests /v1/load_lora_adapter /v1/unload_lora_adapter /start_profile /stop_profile /load
/fault_tolerance/apply /fault_tolerance/status /kv_event_sources /init_weight_transfer_engine /update_weights
/start_weight_update /finish_weight_update /update_weight_version /weight_info /weight_checker /get_world_size
/docs /openapi.json /redoc /static/x
"""


@pytest.mark.parametrize("path", ADMINISTRATIVE.split())
def test_what_administers_an_engine_is_not_reachable(path):
    assert classify(path.encode()) is None


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/chat/../../sleep",
        "/v1/responses/../../sleep",
        "/v1/responses/..%2f..%2fsleep",
        "/v1/responses/a/../../../sleep",
        "/v1/responses/",
        "/v1/responses/a/b",
        "/shoalx",
        "/v1/filesx",
        "/metrics/x",
        "/v1/%63hat/completions",
        "*",
    ],
)
def test_disguises_lead_nowhere(path):
    assert classify(path.encode()) is None


def test_the_model_in_a_path_is_found():
    assert model_of(b"/v1/models/org%2Fmodel/x?y=z") == b"org%2Fmodel/x"
