"""Which path goes where. What is not named here is not reachable from outside.

The list of inference endpoints is that of vLLM 0.32 (``vllm/entrypoints/**/api_router.py``). Its administrative
routes (sleep, wake_up, collective_rpc, LoRA loading, weight updates, profiling, abort_requests of other people's
requests, /metrics of a single engine) stay on the engine's own port.
"""

from __future__ import annotations

import re
from enum import IntEnum


class Endpoint(IntEnum):
    """What a path is."""

    JSON = 1  # an engine answers; the body is JSON that may name the model
    FORM = 2  # an engine answers; the body is multipart/form-data that may name the model
    BARE = 3  # an engine answers; nothing in the request names the model
    CONTROL = 4  # the node's control app answers, over its unix socket
    MODELS = 5  # the routing table answers: list of models
    MODEL = 6  # the routing table answers: one model
    HEALTH = 7
    VERSION = 8
    REALTIME = 9  # an engine answers; a WebSocket, the model in the query


_JSON = """
/v1/chat/completions /v1/chat/completions/batch /v1/chat/completions/render /v1/chat/completions/derender
/v1/completions /v1/completions/render /v1/completions/derender
/v1/responses /v1/responses/render
/v1/messages /v1/messages/count_tokens /v1/messages/render
/cohere/v2/chat /cohere/v2/chat/render
/v1/embeddings /v2/embed /pooling /classify /score /v1/score /rerank /v1/rerank /v2/rerank
/generative_scoring /v1/systemone /inference/v1/generate
/tokenize /detokenize /invocations
/v1/moderations /v1/images/generations /v1/audio/speech
"""  # the last line: not vLLM itself but vLLM-Omni and other OpenAI-compatible servers (external engines)

_FORM = "/v1/audio/transcriptions /v1/audio/translations /v1/images/edits"

_EXACT: dict[bytes, Endpoint] = {
    **dict.fromkeys(_JSON.encode().split(), Endpoint.JSON),
    **dict.fromkeys(_FORM.encode().split(), Endpoint.FORM),
    b"/tokenizer_info": Endpoint.BARE,
    b"/v1/realtime": Endpoint.REALTIME,
    b"/v1/models": Endpoint.MODELS,
    b"/health": Endpoint.HEALTH,
    b"/ping": Endpoint.HEALTH,
    b"/version": Endpoint.VERSION,
    b"/": Endpoint.CONTROL,
    b"/metrics": Endpoint.CONTROL,
}

# Identifiers only: no dot segments, no escapes. vLLM would not resolve them, but what fronts an external engine may.
_RESPONSE = re.compile(rb"/v1/responses/[A-Za-z0-9_-]+(/cancel|/input_items)?")
_CONTROL = re.compile(rb"/(shoal|v1/files|v1/batches)(/.*)?", re.DOTALL)
_MODEL = b"/v1/models/"


def classify(target: bytes) -> Endpoint | None:
    """Return what the origin-form request target (path and query) leads to, None if nothing."""
    endpoint = _EXACT.get(target)
    if endpoint is not None:
        return endpoint
    path = target.partition(b"?")[0]
    endpoint = _EXACT.get(path)
    if endpoint is not None:
        return endpoint
    if path.startswith(_MODEL):
        return Endpoint.MODEL
    if _CONTROL.fullmatch(path):
        return Endpoint.CONTROL
    if _RESPONSE.fullmatch(path):
        return Endpoint.BARE
    return None


def model_of(target: bytes) -> bytes:
    """Return the last part of ``/v1/models/{id}``, escapes and slashes as they came, without the query."""
    return target.partition(b"?")[0].removeprefix(_MODEL)
