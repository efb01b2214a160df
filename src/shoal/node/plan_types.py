"""What a plan says. Plain data: `shoal plan --json` prints it as it is."""

from __future__ import annotations

from typing import Literal

import msgspec

from shoal.node.fit import Fit


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of a model say.

    Attributes:
        name: its name in the configuration.
        path: where it is.
        architecture: the class vLLM runs it with, "" if its files could not be read.
        parameters: their number.
        bytes: of the weights as vLLM holds them.
        source: where the sizes are from.
        dtype: of the weights; with how they are quantised.
        layers: hidden layers.
        heads: attention heads.
        kv_heads: key and value heads.
        latent: keys and values are one vector per token and layer (MLA), whatever the heads.
        token_bytes: keys and values of one token, in all layers that keep them for good.
        max_len: longest request in tokens.
        unknown: why nothing is known, "" if it is.
    """

    name: str
    path: str
    architecture: str = ""
    parameters: int = 0
    bytes: int = 0
    source: str = ""
    dtype: str = ""
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    latent: bool = False
    token_bytes: int = 0
    max_len: int = 0
    unknown: str = ""


class PlannedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that `shoal serve` starts on a node.

    Attributes:
        id: its name on the node.
        model: the model it serves.
        gpus: indices of its GPUs; empty: it runs on the CPU.
        hardware: what it runs on, for people.
        tensor: tensor parallel size.
        stages: pipeline parallel size.
        data: data parallel size.
        fit: how its memory divides, None where that cannot be told.
        weight: share of work that its hardware is good for, relative to the model's slowest engine.
        covers: node that it runs for on a standby, "" for none.
        why: why so, as a phrase.
        nodes: of an engine that spans nodes, by rank; empty for one on this node alone.
        rank: which of them this part is; the first answers requests.
    """

    id: str
    model: str
    gpus: tuple[int, ...]
    hardware: str
    tensor: int
    stages: int
    data: int
    fit: Fit | None
    weight: float
    covers: str
    why: str
    nodes: tuple[str, ...] = ()
    rank: int = 0


class PlannedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node and what it will run.

    Attributes:
        name: ``host:port``.
        role: as the file says.
        hardware: its machine, for people.
        source: where the hardware is known from.
        engines: in the order they are placed.
        idle: indices of GPUs it may use and does not.
    """

    name: str
    role: str
    hardware: str
    source: str
    engines: tuple[PlannedEngine, ...] = ()
    idle: tuple[int, ...] = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Something that will not run.

    Attributes:
        nodes: where.
        by: who refuses: Shoal before anything starts, or vLLM once it has measured.
        sentence: what does not fit, with numbers.
        nearest: what would work, the nearest first.
    """

    nodes: tuple[str, ...]
    by: Literal["shoal", "vllm"]
    sentence: str
    nearest: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster will run.

    Attributes:
        models: facts about each model that Shoal starts engines of.
        nodes: each node.
        refusals: what will not run; the plan works if there are none.
        notes: what a reader should know.
    """

    models: tuple[ModelFacts, ...]
    nodes: tuple[PlannedNode, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
