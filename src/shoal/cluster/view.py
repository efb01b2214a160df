"""The view: immutable snapshots of members and engines, and the one place that says what may be routed to.

Everything here is plain frozen data. A node publishes its own `NodeReport` in every heartbeat; the view
of a node is its own report, the last report of every other member, and what its failure detector says of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec


class MemberState(StrEnum):
    """What one node believes of another."""

    UNKNOWN = "unknown"  # named in the file, never heard of
    ALIVE = "alive"
    SUSPECT = "suspect"  # some heartbeats missed, not yet confirmed
    DEAD = "dead"
    LEFT = "left"  # said good-bye


class EngineState(StrEnum):
    """Life of one engine, as its owner tells it."""

    WAITING = "waiting"  # to be started, or between two starts (back-off)
    STARTING = "starting"  # process runs, not yet ready
    READY = "ready"  # answered /health and the canary
    DRAINING = "draining"  # no new requests, running ones finish
    STOPPING = "stopping"
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"  # process runs but does not answer


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as its owner reports it. Sent in heartbeats, so names stay short and values small.

    Attributes:
        id: unique on its node, such as ``smollm2-0``.
        model: the model's name in the configuration.
        kind: ``vllm``, ``sim`` or ``external``.
        state: where the engine is in its life.
        host: address other nodes reach it at (numeric where known).
        port: TCP port, 0 while none is chosen.
        instance: differs each time the engine is started; "" while it does not run.
        served: ids the engine lists under ``/v1/models`` (the model's name, LoRA adapters).
        max_model_len: context length the engine reports, tokens; None when not known.
        weight: share of work relative to other engines, > 0.
        running: requests the engine says it is running.
        waiting: requests the engine says are queued in it.
        kv_usage: fraction of its KV cache in use, 0 to 1.
        restarts: how often it was started again since the node process began to look after it.
        since: seconds it has been in `state`.
        detail: one sentence for people: the last event, or how far loading has got.
        errors: last error lines of its log while it is not ready, shortened.
        authority: names the certificate authority whose certificates it shows and demands (TLS); "" for plain HTTP.
        standby: it is kept loaded for a takeover and gets no requests until then.
        capacity: requests that it should have at most, by its own limits; 0 when not known.
    """

    id: str
    model: str
    kind: str
    state: EngineState
    host: str
    port: int = 0
    instance: str = ""
    served: tuple[str, ...] = ()
    max_model_len: int | None = None
    weight: float = 1.0
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    restarts: int = 0
    since: float = 0.0
    detail: str = ""
    errors: tuple[str, ...] = ()
    authority: str = ""
    standby: bool = False
    capacity: int = 0


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """What waits for the engines of a model in the gateway of one node.

    Attributes:
        requests: that wait, batch requests left out.
        gateways: gateway workers in which some do.
    """

    requests: int
    gateways: int


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """What a node knows of another one's heartbeats. An array on the wire: every node sends one per member.

    Attributes:
        incarnation: of the newest process heard under that name.
        age: milliseconds since its last heartbeat; None once it has said good-bye.
        host: numeric address its heartbeats come from.
        port: UDP port they come from.
    """

    incarnation: int
    age: int | None
    host: str = ""
    port: int = 0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself in every heartbeat.

    Attributes:
        name: ``host:port`` as in the configuration; a node's identity. Membership fills it in.
        incarnation: start time of the node process, ms since the epoch; a newer one replaces an older one.
            Membership fills it in, and raises it when a clock that went back made it too small.
        version: Shoal's version.
        role: ``serve``, ``standby`` or ``gateway``.
        config_hash: fingerprint of the parts of the configuration all nodes must agree on.
        draining: the node takes no new work and is about to leave.
        covers: name of the node that this standby node stands in for; "" for none.
        engines: its engines.
        in_flight: requests its gateways have open, by engine's full id (``node/engine``); zeros left out.
        waiting: requests that wait in its gateways for room in an engine, by model; models with none left out.
        heard: the other members whose heartbeats it has had, and how recently. Membership fills it in.
        key_use: what its gateways have admitted under limited API keys that are in use, by the key's name: requests
            and tokens since it came into use, and requests open.
    """

    name: str
    incarnation: int = 0
    version: str
    role: str = "serve"
    config_hash: str = ""
    draining: bool = False
    covers: str = ""
    engines: tuple[EngineReport, ...] = ()
    in_flight: dict[str, int] = {}
    waiting: dict[str, Waiting] = {}
    heard: dict[str, Heard] = {}
    key_use: dict[str, tuple[int, int, int]] = {}


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node as this node sees it.

    Attributes:
        name: ``host:port``.
        state: what the failure detector says.
        age: seconds since it was last heard; None if never. 0 for the node itself.
        report: its last report, None if never heard.
        is_self: this is the node that holds the view.
    """

    name: str
    state: MemberState
    age: float | None = None
    report: NodeReport | None = None
    is_self: bool = False


class View(msgspec.Struct, frozen=True, kw_only=True):
    """All members at one moment, in order of name, the node itself included.

    Attributes:
        me: name of the node that holds the view.
        members: every member, sorted by name.
        isolated: the brake of the design: most members vanished at once, so *we* are probably cut off. Serve
            what is ALIVE as ever, but start no takeover (see `shoal.cluster.brake`).
    """

    me: str
    members: tuple[Member, ...] = ()
    isolated: bool = False

    def member(self, name: str) -> Member | None:
        """Return the member called `name`, or None."""
        return next((m for m in self.members if m.name == name), None)

    def engines(self) -> Iterator[tuple[Member, EngineReport]]:
        """Yield every known engine with the member that owns it, dead members' last known ones included."""
        for member in self.members:
            if member.report is not None:
                for engine in member.report.engines:
                    yield member, engine


def gateways_waiting(view: View) -> dict[str, int]:
    """Return in how many gateway workers of the other nodes requests wait, by model.

    Dead and departed members are left out: nothing waits in their gateways any more.
    """
    total: dict[str, int] = {}
    for member in view.members:
        if member.is_self or member.report is None:
            continue
        if member.state in {MemberState.ALIVE, MemberState.SUSPECT}:
            for model, waiting in member.report.waiting.items():
                total[model] = total.get(model, 0) + waiting.gateways
    return total


def full_id(node: str, engine: str) -> str:
    """Return the cluster-wide id of an engine: ``node/engine``, as in ``127.0.0.1:8000/smollm2-0``."""
    return f"{node}/{engine}"
