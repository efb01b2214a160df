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
        kind: ``vllm``, ``sim``, ``command`` or ``external``.
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
        health: path that answers 200 while it is well.
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
    health: str = "/health"


class SeatState(StrEnum):
    """What a node does with its part in a group."""

    FREE = "free"  # nothing of any generation is left here
    JOINED = "joined"  # agreed to a generation, waits for the others
    RUNNING = "running"  # its process of the generation runs, or is being started
    ENDING = "ending"  # the generation is over, its process and memory are not gone yet


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of a group: offered by its leader until all have joined, and kept up for as long as it lives.

    Attributes:
        generation: its number; grows from one to the next.
        members: names of its nodes by vLLM's node rank; the first is the leader.
        host: numeric address of the leader where the processes meet.
        port: TCP port there, another one for each generation.
        rpc_port: TCP port there for data parallel ranks; 0 where there are none.
        tokens: by rank, what each member joined with; empty until all have, which is the sign to start.
    """

    generation: int
    members: tuple[str, ...]
    host: str
    port: int
    rpc_port: int = 0
    tokens: tuple[int, ...] = ()


class SeatReport(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part in an engine that spans nodes, as the node tells it; see `shoal.cluster.group`.

    Attributes:
        engine: id of the engine on this node.
        group: the group's name: full id of the engine on the first node that the file gives it.
        model: the model's name in the configuration.
        rank: which part this is, vLLM's node rank.
        state: what is done with it.
        generation: the newest that this node has joined; 0 for none.
        leader: node that offered it.
        token: tells this joining of the generation from any other one by the same node.
        offer: what this node leads, if it does.
        reason: why the last generation ended.
        waits: what its leader waits for before the next; "" for nothing.
        host: address of `lifeline`.
        lifeline: TCP port that takes connections for as long as the process of this part lives; 0 without one.
        traits: what must be equal on all members, by name: versions, hardware, arguments.
    """

    engine: str
    group: str
    model: str
    rank: int
    state: SeatState = SeatState.FREE
    generation: int = 0
    leader: str = ""
    token: int = 0
    offer: Offer | None = None
    reason: str = ""
    waits: str = ""
    host: str = ""
    lifeline: int = 0
    traits: dict[str, str] = {}


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


class Interface(msgspec.Struct, frozen=True, array_like=True):
    """Where a node takes requests of other nodes.

    Attributes:
        host: address other nodes reach it at.
        port: TCP port.
        authority: names the certificate authority whose certificates it shows and demands; "" for plain HTTP.
    """

    host: str
    port: int
    authority: str = ""


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
        drained: an operator has taken its engines out of rotation; its gateway goes on serving through others.
        link: TCP port on which it answers other nodes, see `shoal.node.link`; 0 for none.
        link_authority: names the authority of the certificates that port shows and demands; "" for plain HTTP.
        agreed: digest of what this node knows of who joined and what was applied, see `shoal.cluster.agreed`.
        generation: of the configuration that was applied last; 0 for that of the file.
        replacing: ``waits`` while engines of it run in a former form, ``acts`` while one was stopped for that and is
            not back; "" else.
        files: digest of the files of each model it has all of and would give to others, by the model's name.
        covers: name of the node that this standby node stands in for; "" for none.
        engines: its engines.
        in_flight: requests its gateways have open, by engine's full id (``node/engine``); zeros left out.
        waiting: requests that wait in its gateways for room in an engine, by model; models with none left out.
        heard: the other members whose heartbeats it has had, and how recently. Membership fills it in.
        key_use: what its gateways have admitted under limited API keys that are in use, by the key's name: requests
            and tokens since it came into use, and requests open.
        seats: its parts in engines that span nodes.
        interface: where it takes requests of other nodes; None where it takes none.
    """

    name: str
    incarnation: int = 0
    version: str
    role: str = "serve"
    config_hash: str = ""
    draining: bool = False
    drained: bool = False
    link: int = 0
    link_authority: str = ""
    agreed: str = ""
    generation: int = 0
    replacing: str = ""
    files: dict[str, str] = {}
    covers: str = ""
    engines: tuple[EngineReport, ...] = ()
    in_flight: dict[str, int] = {}
    waiting: dict[str, Waiting] = {}
    heard: dict[str, Heard] = {}
    key_use: dict[str, tuple[int, int, int]] = {}
    seats: tuple[SeatReport, ...] = ()
    interface: Interface | None = None


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

    def seat(self, node: str, engine: str) -> SeatReport | None:
        """Return what `node` said last of its part in the group of its engine `engine`, None if it has none."""
        member = self.member(node)
        report = member.report if member is not None else None
        return next((s for s in report.seats if s.engine == engine), None) if report is not None else None

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
