"""What the node process and a gateway worker say to each other over a socket pair.

Each message is a 4-byte big-endian length and that many bytes of msgpack. The node process never waits for a
worker and a worker never asks: it is told. A worker whose channel closes has lost its node process and exits.
"""

from __future__ import annotations

import msgspec

from shoal.gateway.keys import KeyTable
from shoal.gateway.trace import Explained
from shoal.routing.table import RoutingTable

BACKLOG = 4096
"""Connections the kernel holds for a worker until it accepts them."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker shows and demands where it connects to an engine of the cluster.

    Attributes:
        ca: PEM file with the authority's certificate.
        certificate: PEM file with the node's.
        key: PEM file with the private key of that.
        server_name: name that an engine's certificate must have.
    """

    ca: str
    certificate: str
    key: str
    server_name: str


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    """First message to a worker. Times in seconds, sizes in bytes.

    Attributes:
        index: row of this worker in the shared maps, 0-based.
        workers: rows for workers (the row after the last is the other nodes' gateways).
        node: name of the node, ``host:port``.
        host: address of the node's listening sockets, one for each worker to accept on.
        port: TCP port of them.
        control_socket: unix socket of the control app.
        max_body: largest request body accepted.
        max_header: largest request head accepted.
        max_upload: largest body of a request that uploads a file, see `shoal.gateway.upload`.
        connect_timeout: for a connection to an engine.
        response_timeout: silence after which an engine that is no longer routed to loses its request to another one;
            None for no limit.
        idle_timeout: a client connection without a request is closed after this.
        header_timeout: a request head must be complete within this.
        keepalive: idle connections kept per engine.
        max_attempts: engines tried for one request at most.
        max_connections: clients' connections held at the same time.
        resume: what becomes of a stream whose engine fails: ``exact``, ``text`` or ``off``.
        resume_buffer: bytes kept of a stream to continue it.
        max_resumes: how often one stream is continued at most.
        max_queued: requests that wait for the engines of one model at most.
        max_queued_bytes: bodies of requests that wait for the engines of one model.
        max_wait: a request that is no batch one waits for so long at most.
        batch_share: share of an engine's capacity beyond which batch requests wait.
        seed: differs between nodes: together with `index` it says where policies start their turns.
        allow_override: requests may name their policy.
        session_header: lower-case name of the header that names a session.
        share_prefixes: tell the node process of learned prompt blocks: there are other nodes to hear of them.
        certificate: PEM file; the worker speaks TLS, None for plain HTTP.
        key: PEM file with the private key of `certificate`.
        authorities: for connections to the cluster's engines, by the name of their certificate authority.
        keys: API keys to begin with; None where nobody needs one, which holds for the life of the worker.
        explain: follow ``all`` requests, or only ``notable`` ones, see `shoal.gateway.trace`.
        explain_slow: a request that takes longer is remembered.
        explain_kept: requests that are remembered.
        trace_sample: share of the requests that get a span, see `shoal.gateway.spans`; 0 for no spans at all.
        trace_endpoint: where spans go, OTLP over HTTP.
        trace_service: name of the service in them.
    """

    index: int
    workers: int
    node: str
    host: str
    port: int
    control_socket: str
    max_body: int = 64 * 1024 * 1024
    max_header: int = 64 * 1024
    max_upload: int = 16 * 1024**3
    connect_timeout: float = 1.0
    response_timeout: float | None = None
    idle_timeout: float = 75.0
    header_timeout: float = 20.0
    keepalive: int = 256
    max_attempts: int = 3
    max_connections: int = 10_000
    resume: str = "exact"
    resume_buffer: int = 4 * 1024 * 1024
    max_resumes: int = 5
    max_queued: int = 2000
    max_queued_bytes: int = 256 * 1024 * 1024
    max_wait: float = 60.0
    batch_share: float = 0.8
    seed: int = 0
    allow_override: bool = False
    session_header: str = "x-session-id"
    share_prefixes: bool = False
    certificate: str | None = None
    key: str | None = None
    authorities: dict[str, Credentials] = {}
    keys: KeyTable | None = None
    explain: str = "notable"
    explain_slow: float = 60.0
    explain_kept: int = 2000
    trace_sample: float = 0.0
    trace_endpoint: str = ""
    trace_service: str = "shoal"


class TableUpdate(msgspec.Struct, frozen=True, tag="table"):
    """A new routing table takes the place of the last one."""

    table: RoutingTable


class KeysUpdate(msgspec.Struct, frozen=True, tag="keys"):
    """New API keys take the place of the last ones."""

    table: KeyTable


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Stop listening, finish what is open, then exit with status 0.

    Attributes:
        timeout: seconds that what is open may take.
        grace: seconds an idle connection stays open all the same: its client may just be sending a request.
    """

    timeout: float
    grace: float = 1.0


class ListRequests(msgspec.Struct, frozen=True, tag="list"):
    """Tell which requests are open: a question, answered with `OpenRequests`."""


class ExplainRequest(msgspec.Struct, frozen=True, tag="explain"):
    """Tell what is remembered of a request: a question, answered with `Explanation`.

    Attributes:
        number: of the question.
        id: of the request, or of its answer.
    """

    number: int
    id: str


ToWorker = WorkerSettings | TableUpdate | KeysUpdate | Drain | ListRequests | ExplainRequest


class WorkerReady(msgspec.Struct, frozen=True, tag="ready"):
    """The worker accepts connections."""

    pid: int


class WorkerFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot go on; it exits after this."""

    reason: str


class EngineFault(msgspec.Struct, frozen=True, tag="fault"):
    """An engine refused, reset or cut a connection: at most one such message per engine and second.

    Attributes:
        engine: cluster-wide id.
        reason: for people, such as ``connection refused``.
        count: faults since the last message about this engine.
        last_for: seconds for which the worker tries this engine last because of it; 0 if it does not.
    """

    engine: str
    reason: str
    count: int
    last_for: float = 0.0


class WorkerNotice(msgspec.Struct, frozen=True, tag="notice"):
    """Something people should know of. All workers of a node may say the same.

    Attributes:
        text: a sentence.
        level: ``info`` or ``warning``.
    """

    text: str
    level: str


class UsageRow(msgspec.Struct, frozen=True, array_like=True):
    """What one API key has used of one model.

    Attributes:
        key: name of the key.
        model: id of the model, as clients name it.
        requests: that have ended.
        prompt_tokens: of them, by the engines' own numbers.
        completion_tokens: likewise.
        limited: requests refused by a limit of the key.
    """

    key: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    limited: int


class KeyUsage(msgspec.Struct, frozen=True, tag="usage"):
    """What API keys have used since the worker's last such message."""

    rows: tuple[UsageRow, ...]


Report = EngineFault | WorkerNotice | KeyUsage
"""What a worker tells while it serves."""


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to an engine that is open.

    Attributes:
        path: of the request.
        model: as the client named it.
        engine: full id of the engine that has it; "" while it waits for one.
        client: IP address it comes from.
        key: name of its API key, "" without one.
        age: seconds since it came.
        stream: it wants events.
        sent: bytes of the response that have gone to the client.
        events: of the stream that have come, about.
        attempts: engines that were tried.
        resumes: times the stream went on on another engine.
    """

    path: str
    model: str
    engine: str
    client: str
    key: str
    age: float
    stream: bool
    sent: int
    events: int
    attempts: int
    resumes: int


class OpenRequests(msgspec.Struct, frozen=True, tag="open"):
    """The requests a worker has open, the oldest first; answers `ListRequests`."""

    rows: tuple[OpenRequest, ...]


class Explanation(msgspec.Struct, frozen=True, tag="explanation"):
    """The answer to a question.

    Attributes:
        number: of the question.
        requests: of that name, newest first.
    """

    number: int
    requests: tuple[Explained, ...]


FromWorker = WorkerReady | WorkerFailed | OpenRequests | Explanation | Report
