"""What an engine is: all it takes to start one, as plain data."""

from __future__ import annotations

import hashlib
import sys
from typing import Literal

import msgspec


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine speaks TLS: it shows its node's certificate and demands one of the same authority from clients.

    Attributes:
        authority: names the certificate authority, see `shoal.cluster.pki.Authority`.
        ca: PEM file with its certificate.
        certificate: PEM file with the node's.
        key: PEM file with the private key of that.
    """

    authority: str
    ca: str
    certificate: str
    key: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an engine that spans nodes which one of them runs.

    Attributes:
        group: the engine's name in the cluster.
        generation: number of this start of it, the same on all nodes.
        nodes: names of the nodes by rank.
        rank: which of them this is: vLLM's node rank. The first answers requests, the others none.
        host: numeric address of the first where the processes meet.
        port: TCP port there.
        rpc_port: TCP port there for data parallel ranks; 0 where there are none.
        tokens: what the nodes joined with, by rank; see `shoal.cluster.group`.
        address: numeric address of this node for the processes of the others.
        interface: network interface that has it, "" if that is not known.
        executor: what starts the processes, see `shoal.engine.executors`.
    """

    group: str
    generation: int
    nodes: tuple[str, ...]
    rank: int
    host: str
    port: int
    rpc_port: int = 0
    tokens: tuple[int, ...] = ()
    address: str = "127.0.0.1"
    interface: str = ""
    executor: str = "mp"

    @property
    def follows(self) -> bool:
        """Whether this is not the part that answers requests."""
        return self.rank > 0


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, resolved: nothing is left to look up in a configuration.

    Attributes:
        id: unique on its node, such as ``smollm2-0``.
        model: the model's name in the configuration.
        kind: ``vllm``, ``sim`` for the simulated engine, or ``command`` for any other program.
        model_path: directory or hub id of the model.
        served_name: id the engine answers to under ``/v1/models``.
        args: further arguments of the engine, in the form of a command line (see `command.cli_args`); of ``command``
            all of it, with the places of `shoal.config.engine_command` still open.
        env: variables the user set for the engine; they win over everything else.
        gpus: NVML indices of its GPUs; ``()`` means it runs on the CPU; None leaves ``CUDA_VISIBLE_DEVICES`` alone.
        host: numeric address it listens on.
        port: TCP port it listens on.
        python: interpreter vLLM is installed in.
        tls: how it speaks TLS, None if it does not. Names files, not their contents: an engine goes on when its node's
            certificate is written anew.
        part: which part of an engine across nodes this is, None for a whole one.
        health: path that answers 200 when it is ready.
    """

    id: str
    model: str
    kind: Literal["vllm", "sim", "command"]
    model_path: str
    served_name: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    gpus: tuple[int, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 0
    python: str = sys.executable
    tls: Tls | None = None
    part: Part | None = None
    health: str = "/health"

    def parts(self) -> dict[str, str]:
        """Return a short digest of every part that cannot change without a restart: all but `id`, `port` and `part`.

        The last changes with each generation, which is told by its number.
        Digests, and not the values, because this goes to disk and arguments and variables may hold secrets.
        """
        fields = (name for name in self.__struct_fields__ if name not in {"id", "port", "part"})
        return {name: _digest(getattr(self, name)) for name in fields}

    def fingerprint(self) -> str:
        """Return 16 hex digits over `parts`: equal for two specs if one's engine can stand in for the other's."""
        return _digest(self.parts())


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).hexdigest()
