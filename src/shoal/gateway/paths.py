"""Which path goes where. What is not named here is not reachable from outside.

The list of inference endpoints is that of vLLM 0.32 (``vllm/entrypoints/**/api_router.py``). Its administrative
routes (sleep, wake_up, collective_rpc, LoRA loading, weight updates, profiling, abort_requests of other people's
requests, /metrics of a single engine) stay on the engine's own port.
"""

from __future__ import annotations

import re
from enum import IntEnum

from shoal.endpoints import JSON


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
    CONSOLE = 10  # the control app answers: the console's files, with nothing in them that anybody must be kept from


_JSON = " ".join((*JSON, "/v1/audio/speech"))  # which answers with sound

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
    b"/": Endpoint.CONSOLE,
    b"/metrics": Endpoint.CONTROL,
    b"/metrics/cluster": Endpoint.CONTROL,
}

# Identifiers only: no dot segments, no escapes. vLLM would not resolve them, but what fronts an external engine may.
_RESPONSE = re.compile(rb"/v1/responses/[A-Za-z0-9_-]+(/cancel|/input_items)?")
_CONSOLE = b"/console/"
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
    if path.startswith(_CONSOLE):
        return Endpoint.CONSOLE
    if _RESPONSE.fullmatch(path):
        return Endpoint.BARE
    return None


def model_of(target: bytes) -> bytes:
    """Return the last part of ``/v1/models/{id}``, escapes and slashes as they came, without the query."""
    return target.partition(b"?")[0].removeprefix(_MODEL)
