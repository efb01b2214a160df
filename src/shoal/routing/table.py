"""The routing table: all a gateway worker knows of the cluster, sent whole by the node process when it changes."""

from __future__ import annotations

import msgspec


class EngineTarget(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that may get requests.

    Attributes:
        id: cluster-wide id, ``node/engine``.
        slot: column of the shared in-flight map that counts its requests.
        host: address to connect to.
        port: TCP port.
        weight: share of work relative to the others, > 0.
        base_path: path in front of the request's own one, ``""`` or ``"/prefix"`` (external engines only).
        api_key: bearer token to send in place of the client's, None to pass the client's header on.
        tls: connect with TLS and trust whom the system trusts (external engines only).
        authority: connect with mutual TLS: the engine and this node show each other certificates of this authority of
            the cluster (the cluster's own engines only); "" for none.
        host_header: ``Host`` to send in place of the client's; None passes the client's on.
        instance: differs each time the engine is started; "" where nobody knows (external engines).
        token_ids: it gives token ids when asked to, as vLLM does (``return_token_ids``).
        capacity: requests of all gateways that it should have at most, 0 for no limit; further ones wait.
        via: unix socket of this node's relay that carries requests there (`communication.protocol` other than tcp); ""
            to connect to the engine itself.
    """

    id: str
    slot: int
    host: str
    port: int
    weight: float = 1.0
    base_path: str = ""
    api_key: str | None = None
    tls: bool = False
    authority: str = ""
    host_header: str | None = None
    instance: str = ""
    token_ids: bool = False
    capacity: int = 0
    via: str = ""


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests that name one model go.

    Attributes:
        model: the model's name in the configuration.
        policy: name of the policy that picks among the engines.
        engines: engines that are ready, best known order first; may be empty.
        max_model_len: context length of the engines, tokens; None when not known.
        pending: sentence for the 503 while `engines` is empty ("1 of 3 engines is loading weights, 41 s so far").
        slot: column of the shared counts of requests that wait for the model.
    """

    model: str
    policy: str
    engines: tuple[EngineTarget, ...] = ()
    max_model_len: int | None = None
    pending: str = ""
    slot: int = 0


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of everything a worker routes by. Never changed, only replaced.

    Attributes:
        version: grows by one with each table of a node process.
        routes: model id as clients name it (served names, LoRA adapters) -> route. Several ids may share one.
        models_body: the JSON body of ``GET /v1/models``, rendered by the node process.
        lost: ids of engines that are gone or hang, for all this node knows: what they still owe an answer is moved
            away from them. (One that merely drains is in no list: it finishes what it has.)
        model_bodies: model id -> JSON body of ``GET /v1/models/{id}``.
        retry_after: seconds for the ``Retry-After`` of a 503.
        draining: the node is leaving: answer what is open, close connections after the response.
    """

    version: int
    routes: dict[str, ModelRoute] = {}
    models_body: bytes = b'{"object":"list","data":[]}'
    model_bodies: dict[str, bytes] = {}
    lost: tuple[str, ...] = ()
    retry_after: int = 5
    draining: bool = False
