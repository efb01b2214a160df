"""What to do with a complete request: answer it here, or send it on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec

import shoal
from shoal.gateway.access import identified, model_refusal
from shoal.gateway.claims import ClaimError, claim
from shoal.gateway.exchange import Exchange
from shoal.gateway.inspect import (
    LONG_BODY,
    BodyError,
    RoutingFields,
    decode_fields,
    form_fields,
    json_fields,
    shortened,
)
from shoal.gateway.metered import MeteredExchange, metered
from shoal.gateway.paths import Endpoint, classify, model_of
from shoal.gateway.relay import RESUMABLE
from shoal.gateway.responses import Answer, error
from shoal.gateway.stream import StreamExchange

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.keys import Key
    from shoal.gateway.request import Request

_VERSION = Answer(200, msgspec.json.encode({"version": shoal.__version__, "server": "shoal"}))
_JSON, _FORM, _BARE = Endpoint.JSON, Endpoint.FORM, Endpoint.BARE
_NAMED = 20  # models named in an error at most
_NO_ROUTES = "No model is known yet; the node has just started."

POLICY_HEADER = b"x-shoal-policy"
"""Names the policy for one request, where `WorkerSettings.allow_override` is set."""


def dispatch(gateway: Gateway, client: ClientConnection, request: Request) -> Exchange | Answer:
    """Return the exchange, not yet started, that will answer `request`, or the answer itself."""
    if request.usual and (exchange := _usual(gateway, client, request)) is not None:
        return exchange
    endpoint = classify(request.target)
    access = gateway.access
    if access is not None and (refusal := access.check(request, endpoint)) is not None:
        return refusal  # not remembered: whoever has no key could fill what is
    if endpoint is _JSON or endpoint is _FORM or endpoint is _BARE:
        outcome = _to_engine(gateway, client, request, endpoint)
        return gateway.traces.refused(request, outcome) if type(outcome) is Answer else outcome
    if endpoint is Endpoint.CONTROL or endpoint is Endpoint.CONSOLE:
        request.head = identified(request.head, request.key)
        return Exchange(gateway, client, request, None)
    if endpoint is Endpoint.REALTIME:
        return _realtime(gateway, client, request)
    if endpoint is None:
        path = request.target.partition(b"?")[0].decode("latin-1")
        return error(404, f"There is nothing at {path[:200]}.", code="not_found")
    return _answer_here(gateway, request, endpoint)


def _usual(gateway: Gateway, client: ClientConnection, request: Request) -> Exchange | None:
    """Return what `dispatch` does, in a third of its steps, for what is asked nearly always; None for all else.

    That is: no stream, no priority, a model that has an engine, and a key without limits. What is wrong with a request
    is found, and said, on the long way.
    """
    access, key = gateway.access, None
    if access is not None and (key := access.unlimited.get(request.credentials)) is None:
        return None
    body = request.body
    if len(body) >= LONG_BODY and gateway.fields_of is decode_fields:  # nobody needs the prompt
        body = shortened(body)
    try:
        fields = gateway.fields_of(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    route = gateway.routes.get(fields.model)  # type: ignore[arg-type] # None has none
    if route is None or not route.pools:
        return None
    request.fields = fields
    if fields.stream or fields.priority is not None or gateway.curious:
        return None
    if key is None:
        return Exchange(gateway, client, request, route)
    assert access is not None
    access.limiter.enter(key)  # which it cannot refuse
    request.key = key
    exchange = MeteredExchange(gateway, client, request, route)
    exchange.owner = key
    return exchange


def _to_engine(
    gateway: Gateway, client: ClientConnection, request: Request, endpoint: Endpoint
) -> Exchange | Answer:
    """Return the exchange of a request that an engine answers, or what speaks against it."""
    try:
        if endpoint is _JSON:
            request.fields = fields = request.fields or json_fields(request.body, gateway.fields_of)
        else:
            fields = _fields(endpoint, request)
    except BodyError as problem:
        return error(400, str(problem), code="invalid_body")
    request.stream = bool(fields.stream)
    key = request.key
    if request.priority or fields.priority is not None or (key is not None and key.priority):
        try:
            request.claim = claim(request.priority, fields.priority, key)
        except ClaimError as problem:
            return error(400, str(problem), code="invalid_priority", param="priority")
    if request.stream:
        request.plain = False
        request.ask_ids = _wants_ids(gateway, request, fields)
    route = _route(gateway, request, fields.model)
    if type(route) is Answer:
        return route
    if gateway.settings.allow_override and (refused := _override(gateway, request, route)):  # type: ignore[arg-type]
        return refused
    if request.id or gateway.traces.watching:
        gateway.traces.follow(request)
    if request.key is not None:
        request.ask_usage = fields.stream is True and _lacks_usage(request, fields)
        return metered(gateway, client, request, route)  # type: ignore[arg-type]
    kind = StreamExchange if request.stream else Exchange
    return kind(gateway, client, request, route)  # type: ignore[arg-type]


def _override(gateway: Gateway, request: Request, route: Route) -> Answer | None:
    """Have the policy pick that the request names; return the answer to one that does not exist."""
    name = request.header(POLICY_HEADER).decode("latin-1")
    if not name:
        return None
    try:
        request.policy = gateway.policy(route.model, name)
    except ValueError as problem:
        text = f"The header {POLICY_HEADER.decode()} asks for something that is not there: {problem}."
        return error(400, text[:500], code="unknown_policy", param=POLICY_HEADER.decode())
    return None


def _wants_ids(gateway: Gateway, request: Request, fields: RoutingFields) -> bool:
    """Whether the stream can be continued from token ids that its client did not ask for.

    With them, vLLM leaves the echo of a prompt out, so a request for an echo goes on as it came.
    """
    return (
        gateway.settings.resume == "exact"
        and fields.return_token_ids is None
        and not fields.echo
        and request.target.partition(b"?")[0] in RESUMABLE
    )


def _lacks_usage(request: Request, fields: RoutingFields) -> bool:
    """Whether the stream would have no usage at its end unless it is asked for."""
    options = fields.stream_options
    asked = isinstance(options, dict) and options.get("include_usage")
    return not asked and request.target.partition(b"?")[0] in RESUMABLE


def _realtime(gateway: Gateway, client: ClientConnection, request: Request) -> Exchange | Answer:
    if not request.upgrade:
        text = "This is a WebSocket: ask for it with GET and `Upgrade: websocket`."
        return error(426, text, code="upgrade_required", headers=(b"upgrade: websocket",))
    query = request.target.partition(b"?")[2].decode("latin-1")
    # `model` is not needed: clients of vLLM may name it in a later message (session.update), too late to choose by.
    models = parse_qs(query, encoding="utf-8", errors="replace").get("model")
    request.stream = True
    route = _route(gateway, request, models[0] if models else None)
    if type(route) is Answer:
        return route
    if request.key is not None:
        return metered(gateway, client, request, route)  # type: ignore[arg-type]
    return Exchange(gateway, client, request, route)  # type: ignore[arg-type]


def _fields(endpoint: Endpoint, request: Request) -> RoutingFields:
    if endpoint is _FORM and request.body:
        return form_fields(request.header(b"content-type"), request.body)
    return RoutingFields()


def _route(gateway: Gateway, request: Request, model: str | None) -> Route | Answer:
    """Return the route of a model that has an engine, or the answer that says why there is none."""
    if model is not None:
        route = gateway.routes.get(model)
        if route is None:
            return _unknown_model(gateway, request, model)
        key = request.key
        if key is not None and key.models is not None and (refusal := model_refusal(key, model)) is not None:
            return refusal
    else:
        route = gateway.only_route
        if route is None and request.method == b"OPTIONS":  # a CORS preflight: any engine knows the answer
            route = next((r for r in gateway.routes.values() if r.pools), None)
    if route is None:
        if gateway.routes:
            return error(
                400,
                f"The request must name a model: {_known(gateway, request)}.",
                code="model_missing",
                param="model",
            )
        return _not_ready(gateway, _NO_ROUTES)
    if model is None and request.key is not None:
        # Without a name, engines take the model they were started with and none of its adapters.
        model = gateway.table.routes[route.model_id].model
        if (refusal := model_refusal(request.key, model)) is not None:
            return refusal
    if not route.pools:
        return _not_ready(gateway, route.pending or f"No engine of model {route.model_id!r} is ready.")
    return route


def _answer_here(gateway: Gateway, request: Request, endpoint: Endpoint) -> Answer:
    ping = request.target.startswith(b"/ping")  # SageMaker asks with POST, too
    if request.method not in (b"GET", b"HEAD") and not (ping and request.method == b"POST"):
        return error(
            405,
            f"{request.method.decode()} is not possible here, only GET.",
            code="method_not_allowed",
            headers=(b"allow: GET, HEAD",),
        )
    table = gateway.table
    if endpoint is Endpoint.MODELS:
        return Answer(200, table.models_body if request.key is None else _models_of(gateway, request.key))
    if endpoint is Endpoint.MODEL:
        model = unquote_to_bytes(model_of(request.target)).decode("utf-8", "replace")
        body = table.model_bodies.get(model)
        if body is None:
            return _unknown_model(gateway, request, model)
        return model_refusal(request.key, model) or Answer(200, body)
    if endpoint is Endpoint.VERSION:
        return _VERSION
    ready = sum(len(pools) for pools in {route.pools for route in gateway.routes.values()})
    if ready:
        return Answer(200, b'{"status":"ok","engines":%d}' % ready)
    pending = dict.fromkeys(route.pending for route in gateway.routes.values() if route.pending)
    return _not_ready(gateway, " ".join(pending) or "No engine is ready.")


def _models_of(gateway: Gateway, key: Key) -> bytes:
    """Return the body of ``GET /v1/models`` with the models that a key opens."""
    table = gateway.table
    if key.models is None:
        return table.models_body
    bodies = [body for model, body in table.model_bodies.items() if model in key.models]
    return b'{"object":"list","data":[%b]}' % b",".join(bodies)


def _known(gateway: Gateway, request: Request) -> str:
    names = sorted(m for m in gateway.routes if model_refusal(request.key, m) is None) or [
        "none for this key"
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _unknown_model(gateway: Gateway, request: Request, model: str) -> Answer:
    if not gateway.routes:
        return _not_ready(gateway, _NO_ROUTES)
    return error(
        404,
        f"The model {model[:200]!r} does not exist; there are: {_known(gateway, request)}.",
        code="model_not_found",
        param="model",
    )


def _not_ready(gateway: Gateway, why: str) -> Answer:
    retry_after = b"retry-after: %d" % gateway.table.retry_after
    return error(503, why, code="no_engine_ready", headers=(retry_after,))
