"""The settings of a model and of the engines that serve it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from shoal.config.admission import InFlightLimit
from shoal.config.base import Entries, Line, LocalPath, Section, distinct, listed
from shoal.config.engine_args import Args, check_args
from shoal.config.engine_command import check_command
from shoal.config.hosts import check_host
from shoal.config.replicas import Replicas
from shoal.routing import registry


def _check_policy(name: str) -> str:
    if not registry.known(name):
        raise ValueError(
            f"it must be one of {listed(registry.names())}, or a policy that a package installed here brings"
        )
    return name


PolicyName = Annotated[
    str,
    AfterValidator(_check_policy),
    WithJsonSchema({"anyOf": [{"enum": list(registry.POLICIES)}, {"type": "string", "minLength": 1}]}),
]
EngineKind = Literal["vllm", "sim", "command", "external"]
Placement = Literal["small", "medium", "large", "xlarge", "auto"]

_VARIABLE_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ARGS_SCHEMA = {
    "anyOf": [
        {"type": "object", "propertyNames": {"pattern": r"^[^-\s=][^\s=]*$"}},
        {"type": "array", "items": {"type": ["string", "number"]}},
    ]
}
_COMMAND_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}},
    ]
}


def _environment_text(value: Any) -> Any:
    """Return an environment variable's value as text: a number is taken as it is written in decimal."""
    if isinstance(value, bool) or value is None:
        raise ValueError('it must be text; put it in quotes ("" for an empty one)')
    return str(value) if isinstance(value, int | float) else value


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("it must be a URL such as http://10.0.0.5:8000") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("it must be a URL such as http://10.0.0.5:8000 or https://llm.example.com/prefix")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL here holds no user name or password; give the key under `api_key`")
    if parts.query or parts.fragment or any(c in url for c in "?# "):
        raise ValueError("a URL here ends with its path")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("leave out the /v1 at the end, requests bring their own")
    check_host(parts.hostname)
    return url.rstrip("/")


class Address(Section):
    """An engine that somebody else runs."""

    url: Annotated[Line, AfterValidator(_check_url)] = Field(
        description="Where the engine answers, as in http://10.0.0.5:8000 or https://llm.example.com/prefix. "
        "Without /v1 at the end."
    )
    api_key: Line | None = Field(
        default=None,
        repr=False,
        description="Sent to the engine as its bearer token in place of the client's. Without one the "
        "client's header is passed on.",
    )
    weight: float = Field(
        default=1.0, gt=0, le=1e6, description="Share of work relative to the other engines."
    )

    @property
    def host(self) -> str:
        """Host name or IP address of the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port of the URL, the scheme's own when it names none."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def tls(self) -> bool:
        """Whether the URL is an https one."""
        return urlsplit(self.url).scheme == "https"

    @property
    def base_path(self) -> str:
        """Path in front of the requests' own one, ``""`` or ``"/prefix"``."""
        return urlsplit(self.url).path


class Model(Section):
    """A model, and how its engines are run."""

    path: LocalPath | None = Field(
        default=None,
        description="Directory of the model (~, ./ and ../ are resolved, the latter from this file) or its "
        "id on a hub. Needed for vLLM and the simulated engine.",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="Digest of the files the model must have, as `shoal status --json` tells it. Nodes serve nothing "
        "else: files that differ are deleted and fetched from nodes that have the right ones.",
    )
    name: Line = Field(
        default="",
        max_length=200,
        description="The name clients ask for. By default the last part of path.",
    )
    type: Placement = Field(
        default="auto",
        description="How engines are placed. small, medium: one per GPU, or per node without GPUs. large: "
        "one per node over all its GPUs. xlarge: one across nodes (docs/groups.md). auto: on the fewest GPUs that hold "
        "the model with room for requests, as many as there is room for. `shoal plan` tells what comes of it.",
    )
    engine: EngineKind = Field(
        default="vllm",
        description="What serves the model: vllm, sim (the simulated engine), command (any program that speaks the "
        "OpenAI API, started by `command`) or external (engines that somebody else runs at `addresses`: balanced and "
        "watched, never started or stopped).",
    )
    command: (
        Annotated[tuple[str, ...], BeforeValidator(check_command), WithJsonSchema(_COMMAND_SCHEMA)] | None
    ) = Field(
        default=None,
        description="With engine: command, the program and its arguments, as one text or a list. {port} stands for "
        "the port it must listen on, {host} for the address, {model} for path, {name} for name, {gpus} for the "
        "number of its GPUs. No shell runs it.",
    )
    health: Annotated[Line, Field(pattern=r"^/[!-~]*$", max_length=200)] | None = Field(
        default=None,
        description="With engine: command, the path that answers 200 once the program is ready. By default /health.",
    )
    engines_per_node: int | None = Field(
        default=None, ge=1, le=64, description="Engines on each node. By default computed from type and GPUs."
    )
    gpus_per_engine: int | None = Field(
        default=None, ge=0, le=64, description="GPUs of each engine. By default computed from type and GPUs."
    )
    nodes_per_engine: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Nodes that each engine spans, in the order of the file. By default all nodes of the model with "
        "type: xlarge, else 1. On Ray those that Ray has room on.",
    )
    tensor_parallel: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="GPUs (or, without GPUs, processes) that each layer is divided over. By default all GPUs of an "
        "engine on each of its nodes.",
    )
    pipeline_parallel: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Stages that the layers are divided into. By default one for each node of an engine.",
    )
    executor: Literal["mp", "ray"] = Field(
        default="mp",
        description="What starts an engine's processes on its nodes. mp: vLLM itself (--nnodes). ray: a Ray cluster of "
        "the engine's own (docs/groups.md), with GPUs only.",
    )
    min_engines: int = Field(
        default=1,
        ge=0,
        le=4096,
        description="Capacity floor: engines of the model that have to stay in rotation. `shoal drain`, `leave` and "
        "`apply` refuse to go below it.",
    )
    replicas: Replicas = Field(
        default=Replicas(), description="On Ray: how many engines there are, and when that changes."
    )
    share_gpus: bool = Field(
        default=False, description="Whether engines of this model may use GPUs that other engines use too."
    )
    nodes: Annotated[Entries[Line], AfterValidator(distinct)] | None = Field(
        default=None,
        min_length=1,
        description="Nodes (host:port) that run the model. By default every node with the role serve.",
    )
    policy: PolicyName | None = Field(
        default=None, description="How one of the model's engines is picked. By default routing.policy."
    )
    max_in_flight: InFlightLimit | None = Field(
        default=None,
        description="Requests that each of the model's engines gets at the same time. By default "
        "admission.max_in_flight.",
    )
    args: Annotated[Args, WithJsonSchema(_ARGS_SCHEMA)] = Field(
        default={},
        description="Arguments for the engine, passed on untouched. A mapping (max_model_len: 2048; true for"
        " an argument without a value, false for its --no- form, a list for several values, a "
        "mapping for JSON) or a list of texts.",
    )
    env: dict[
        Annotated[str, Field(pattern=_VARIABLE_NAME)],
        Annotated[str, BeforeValidator(_environment_text, json_schema_input_type=str | int | float)],
    ] = Field(
        default={},
        repr=False,
        description="Environment variables of the engine, in addition to those of `shoal serve`.",
    )
    addresses: Entries[Address] = Field(
        default=(), description="Where the engines are, with engine: external only."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") is not None:
            return data
        path = data.get("path")
        name = path.rstrip("/").rpartition("/")[2].strip() if isinstance(path, str) else ""
        return data | {"name": name} if name and name.strip(".~") else data

    @field_validator("args", mode="plain")
    @classmethod
    def _check_args(cls, value: Any) -> Args:
        return check_args(value)

    @field_serializer("args", mode="plain")
    def _dump_args(self, value: Args) -> dict[str, Any] | list[str]:
        return value if isinstance(value, dict) else list(value)
