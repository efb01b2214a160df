"""The configuration: every section and setting, with its type, default, bounds and meaning.

This is the one place that says so; the messages of `shoal config check`, the JSON Schema and the
documentation are made from it. What holds between settings is in `shoal.config.rules` and
`shoal.config.timers`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from shoal.config import rules
from shoal.config.admission import Admission
from shoal.config.base import (
    Entries,
    Line,
    Seconds,
    Section,
    bytes_between,
    distinct,
    single_line,
    surroundings,
)
from shoal.config.batch import Batch
from shoal.config.communication import Communication
from shoal.config.engines import Engines
from shoal.config.errors import SettingPath
from shoal.config.files import Files
from shoal.config.hosts import check_bind, check_host
from shoal.config.keys import Keys
from shoal.config.model import Address, EngineKind, Model, Placement, PolicyName
from shoal.config.monitoring import Monitoring
from shoal.config.recovery import Recovery
from shoal.config.tls import Tls
from shoal.config.tracing import Tracing

__all__ = [
    "Address",
    "Admission",
    "Batch",
    "Cluster",
    "Communication",
    "Config",
    "EngineKind",
    "Engines",
    "Files",
    "Gateway",
    "Logging",
    "Model",
    "Node",
    "Placement",
    "PolicyName",
    "Recovery",
    "Role",
    "Routing",
    "Standby",
]

Role = Literal["serve", "standby", "gateway"]
Standby = Literal["hot", "warm"]
Port = Annotated[int, Field(ge=1, le=65535)]

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_MOST_WORKERS = 256
_MOST_AUTO_WORKERS = 4


class Node(Section):
    """One machine's Shoal process."""

    host: Annotated[Line, AfterValidator(check_host)] = Field(
        description="IP address or name that the other nodes and the clients reach the machine at."
    )
    port: Port = Field(default=8000, description="TCP port of the gateway and UDP port of the heartbeats.")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="Share of work relative to the other nodes.")
    role: Role = Field(
        default="serve",
        description="serve: runs engines. standby: takes over for a lost node. gateway: runs none, only "
        "routes.",
    )
    standby: Standby | None = Field(
        default=None,
        description="With role: standby. hot: engines of all models are loaded and get no requests until it takes "
        "over. warm: the engines start when it takes over. By default warm.",
    )
    bind: Annotated[Line, AfterValidator(check_bind)] | None = Field(
        default=None,
        description="Address to listen on where it differs from host (NAT, cloud); 0.0.0.0 for all.",
    )
    fabric: Annotated[Line, AfterValidator(check_host)] | None = Field(
        default=None,
        description="IP address or name under which the processes of an engine that spans nodes reach this one, where "
        "it is not host: a faster network, for instance.",
    )
    gpus: Annotated[Entries[Annotated[int, Field(ge=0, le=1023)]], AfterValidator(distinct)] | None = Field(
        default=None, description="Indices of the GPUs the node may use. By default all; [] for none."
    )

    @property
    def name(self) -> str:
        """``host:port``, the node's identity."""
        return f"{self.host}:{self.port}"

    @property
    def is_hot(self) -> bool:
        """Whether it is a standby node that keeps its engines loaded."""
        return self.role == "standby" and self.standby == "hot"


class Cluster(Section):
    """Who belongs to the cluster, and how the loss of a node is noticed."""

    name: str = Field(
        default="shoal",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        description="Nodes only listen to nodes of a cluster of the same name. Letters, digits, _ . and -.",
    )
    secret: Annotated[str, Field(min_length=16, max_length=1024), AfterValidator(single_line)] | None = Field(
        default=None,
        repr=False,
        description="Proves that a node belongs to the cluster; at least 16 characters, the same on every "
        "node. By default the environment variable SHOAL_SECRET. Only a cluster on loopback "
        "starts without one.",
    )
    tls: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether engine ports speak TLS and demand the cluster's certificate, which every node makes for "
        "itself from the secret. auto: on, unless all nodes are on loopback.",
    )
    heartbeat_interval: Seconds = Field(
        default=0.5, ge=0.05, le=60, description="Seconds between two heartbeats of a node. From 0.05 to 60."
    )
    suspect_after: int = Field(
        default=3,
        ge=2,
        le=100,
        description="Heartbeats missed before a node is suspected. At least 2: one gets lost.",
    )
    confirm_timeout: Seconds = Field(
        default=0.4,
        gt=0,
        le=60,
        description="Seconds for other nodes and a TCP probe to confirm a suspicion; then the node is dead. "
        "At most heartbeat_interval x suspect_after.",
    )
    leave_after: Seconds = Field(
        default=300.0,
        gt=0,
        le=604800,
        description="Seconds after which a dead node that is not in this file is forgotten. More than "
        "heartbeat_interval x suspect_after + confirm_timeout.",
    )

    substrate: Literal["builtin", "ray"] = Field(
        default="builtin",
        description="What says which nodes there are. builtin: this file, `serve --join` and `leave`. ray: a Ray "
        "cluster, whose nodes take the place of those of this file; `shoal up --on ray FILE` starts it (docs/ray.md).",
    )
    release_after: Seconds = Field(
        default=0.0,
        ge=0,
        le=604800,
        description="With substrate: ray. Seconds without an engine after which a node leaves, so that Ray's "
        "autoscaler can take its machine back. 0: never, gateways stay on all nodes. Ray's head always keeps its one.",
    )

    @property
    def detection_time(self) -> float:
        """Longest time in seconds from a node's loss until the others know."""
        return self.heartbeat_interval * self.suspect_after + self.confirm_timeout


def _number_or_auto(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_WORKERS
    if value != "auto" and not is_number:
        raise ValueError(f"it must be a whole number from 1 to {_MOST_WORKERS}, or auto")
    return value


class Gateway(Section):
    """The HTTP front of each node."""

    workers: Annotated[
        Annotated[int, Field(ge=1, le=_MOST_WORKERS)] | Literal["auto"], BeforeValidator(_number_or_auto)
    ] = Field(default="auto", description="Processes that pass requests on. auto: half the cores, at most 4.")
    max_body: Annotated[int, *bytes_between(_KIB, 64 * _GIB)] = Field(
        default=64 * _MIB, description="Largest request body, in bytes or as 64MiB."
    )
    max_header: Annotated[int, *bytes_between(_KIB, 16 * _MIB)] = Field(
        default=64 * _KIB, description="Largest request head, in bytes or as 64KiB."
    )
    connect_timeout: Seconds = Field(
        default=1.0,
        gt=0,
        le=60,
        description="Seconds to connect to an engine before another one is tried. Less than "
        "communication.timeout.",
    )
    idle_timeout: Seconds = Field(
        default=75.0,
        gt=0,
        le=86400,
        description="Seconds a client's connection may stay open without a request.",
    )
    header_timeout: Seconds = Field(
        default=20.0, gt=0, le=3600, description="Seconds in which a request head must arrive completely."
    )
    keepalive: int = Field(
        default=256, ge=0, le=65536, description="Idle connections that a worker keeps to each engine."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="Engines tried for one request before the client gets an error."
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Clients' connections that a worker holds; more get 503 and are closed.",
    )
    tls: Tls | None = Field(
        default=None, description="Certificate and key to speak HTTPS with. By default plain HTTP."
    )
    keys: Keys = Field(default=Keys(), description="API keys that it asks for. By default none.")
    explain: Literal["notable", "all"] = Field(
        default="notable",
        description="Which requests `shoal explain` can tell of: those that their clients have named (x-request-id) "
        "and those that something happened to, or all, which costs some CPU time and names them in their answers.",
    )
    explain_slow: Seconds = Field(
        default=60.0,
        gt=0,
        le=86400,
        description="Seconds after which it is notable that a request takes so long.",
    )
    explain_kept: int = Field(
        default=2000, ge=0, le=100_000, description="Such requests that a worker remembers; about 2 KB each."
    )

    def worker_count(self, cores: int | None = None) -> int:
        """Return the number of workers on a machine with `cores` processor cores (default: this one)."""
        if self.workers != "auto":
            return self.workers
        return min(_MOST_AUTO_WORKERS, max(1, (cores or os.cpu_count() or 1) // 2))


class Routing(Section):
    """How an engine is picked for a request."""

    policy: PolicyName = Field(
        default="prefix_affinity",
        description="prefix_affinity: the one that knows most of the prompt and has least to do. round_robin: in turn. "
        "weighted_round_robin: in turn, by weight. least_connections: the one with the fewest open requests for its "
        "weight. power_of_two: the less loaded of two. session: the same for all requests of a session. Or one of a "
        "package installed on every node (docs/policies.md).",
    )
    allow_override: bool = Field(
        default=False,
        description="Whether a request may name another policy with the header x-shoal-policy. Where not, the header "
        "is passed over.",
    )
    session_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        default="x-session-id",
        description="Header that names the session for the policy session. Without it: prompt_cache_key or user in the "
        "body, else the API key.",
    )
    prefix_memory: Annotated[int, *bytes_between(_MIB, 64 * _GIB)] = Field(
        default=64 * _MIB,
        description="Memory of each node for which engine has which prompts, at most, in bytes or as 64MiB.",
    )


class Logging(Section):
    """What `shoal serve` prints."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity shown."
    )
    format: Literal["auto", "text", "json"] = Field(
        default="auto", description="text for people, json for machines. auto: text."
    )


class Config(Section):
    """The whole configuration of a cluster, the same on every node.

    Raises pydantic's `ValidationError` where a setting or a rule between settings is broken. Programs use
    `shoal.config.load`, which knows the file and tells people what is wrong with it.
    """

    nodes: Entries[Node] = Field(min_length=1, description="The machines of the cluster.")
    model: Model | None = Field(default=None, description="The model, where there is only one.")
    several: Entries[Model] = Field(
        default=(), alias="models", description="The models, where there are several. In place of model."
    )
    communication: Communication = Field(default=Communication(), description="How nodes talk to each other.")
    cluster: Cluster = Field(default=Cluster(), description="Membership and failure detection.")
    files: Files = Field(default=Files(), description="How nodes look after the files of models.")
    gateway: Gateway = Field(default=Gateway(), description="The HTTP front of each node.")
    engines: Engines = Field(default=Engines(), description="How engines are started and watched.")
    recovery: Recovery = Field(default=Recovery(), description="Restarts and graceful stop.")
    batch: Batch = Field(default=Batch(), description="Files and batches.")
    routing: Routing = Field(default=Routing(), description="How an engine is picked for a request.")
    admission: Admission = Field(
        default=Admission(),
        description="How many requests engines get at the same time, and how others wait.",
    )
    logging: Logging = Field(default=Logging(), description="What `shoal serve` prints.")
    tracing: Tracing = Field(default=Tracing(), description="Spans of requests, for OpenTelemetry.")
    monitoring: Monitoring = Field(
        default=Monitoring(), description="What nodes do for those who watch them."
    )
    state_dir: Path = Field(
        default=Path(),  # stands for "not given"; the validator below puts the real one
        validate_default=True,
        description="Directory for logs, sockets and records, one folder per node in it. By default "
        "$XDG_STATE_HOME/shoal, or ~/.local/state/shoal.",
    )

    @field_validator("state_dir", mode="before")
    @classmethod
    def _resolve_state_dir(cls, value: Any, info: ValidationInfo) -> Any:
        around = surroundings(info)
        if value is None or value == Path():
            return around.default_state_dir()
        if not isinstance(value, str):
            return value
        if not value.strip() or not value.isprintable():
            raise ValueError("it must be the path of a directory")
        return around.base / around.expand(value)

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        findings = tuple(rules.findings(self))
        if findings:
            raise rules.RulesError(findings)
        return self

    @property
    def models(self) -> tuple[Model, ...]:
        """The models, whichever form the file uses."""
        return (self.model,) if self.model is not None else self.several

    def located_models(self) -> Iterator[tuple[SettingPath, Model]]:
        """Yield the models, each with where the file has it: ``("model",)`` or ``("models", i)``."""
        if self.model is not None:
            yield ("model",), self.model
        for i, model in enumerate(self.several):
            yield ("models", i), model

    def node(self, name: str) -> Node | None:
        """Return the node called `name` (``host:port``), or None."""
        return next((n for n in self.nodes if n.name == name), None)

    def nodes_of(self, model: Model) -> tuple[Node, ...]:
        """Return the nodes that run engines of `model`: those it names, or all, of those with the role serve."""
        if model.engine == "external":
            return ()
        serving = (n for n in self.nodes if n.role == "serve")
        return tuple(n for n in serving if model.nodes is None or n.name in model.nodes)

    def models_of(self, node: Node) -> tuple[Model, ...]:
        """Return the models that `node` runs engines of by its own, so none for one that does not serve."""
        return tuple(m for m in self.models if node in self.nodes_of(m))

    def span_of(self, model: Model) -> int:
        """Return the number of nodes that each engine of `model` spans."""
        if model.nodes_per_engine is not None or model.type != "xlarge":
            return model.nodes_per_engine or 1
        return max(1, len(self.nodes_of(model)))

    def duties_of(self, node: Node) -> Mapping[str, tuple[Model, ...]]:
        """Return the models `node` runs engines of, by the name of the node it takes over for; "" for none.

        A serving node has that one entry. A hot standby runs the same whether it takes over or not: all models
        that any node serves.
        """
        if node.role != "standby":
            return {"": self.models_of(node)}
        covered = {n.name: models for n in self.nodes if (models := self.models_of(n))}
        if node.is_hot:
            served = tuple(m for m in self.models if self.nodes_of(m))
            return dict.fromkeys(("", *covered), served)
        return {"": (), **covered}

    @property
    def engines_speak_tls(self) -> bool:
        """Whether the engines that nodes start are to speak TLS and demand the cluster's certificate."""
        if self.cluster.tls != "auto":
            return self.cluster.tls == "on"
        return any(rules.beyond_loopback(n) for n in self.nodes)

    @property
    def fetches_files(self) -> bool:
        """Whether a node that lacks a model's directory gets its files from others."""
        if self.files.fetch != "auto":
            return self.files.fetch == "on"
        return any(rules.beyond_loopback(n) for n in self.nodes)

    def state_dir_of(self, node_name: str) -> Path:
        """Return the directory of the state of the node `node_name` (``host:port``, in the file or not)."""
        host, _, port = node_name.rpartition(":")
        return self.state_dir / f"{host}_{port}".replace("/", "_")

    def agreed_hash(self) -> str:
        """Return 16 hex characters that are equal on nodes whose configurations fit together.

        They cover the nodes and their roles, the models, the cluster, communication, routing and admission. Secrets
        and keys are left out, the order of nodes, models and keys does not matter.
        """
        agreed = {
            # Standby nodes must agree on who takes over for whom.
            "nodes": sorted(f"{n.name} {n.role} {n.is_hot}" for n in self.nodes),
            "models": sorted(
                (_comparable(m) for m in self.models),
                key=lambda m: str(m["name"]),
            ),
            "cluster": self.cluster.model_dump(exclude={"secret"}),
            "communication": self.communication.model_dump(exclude={"broker": {"password", "ca"}}),
            "routing": self.routing.model_dump(),
            "admission": self.admission.model_dump(),
        }
        text = json.dumps(agreed, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _comparable(model: Model) -> dict[str, Any]:
    dumped = model.model_dump(exclude={"addresses": {"__all__": {"api_key"}}})
    return dumped | {"nodes": sorted(model.nodes) if model.nodes else None}
