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


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, resolved: nothing is left to look up in a configuration.

    Attributes:
        id: unique on its node, such as ``smollm2-0``.
        model: the model's name in the configuration.
        kind: ``vllm``, or ``sim`` for the simulated engine.
        model_path: directory or hub id of the model.
        served_name: id the engine answers to under ``/v1/models``.
        args: further arguments of the engine, in the form of a command line (see `command.cli_args`).
        env: variables the user set for the engine; they win over everything else.
        gpus: NVML indices of its GPUs; ``()`` means it runs on the CPU; None leaves ``CUDA_VISIBLE_DEVICES`` alone.
        host: numeric address it listens on.
        port: TCP port it listens on.
        python: interpreter vLLM is installed in.
        tls: how it speaks TLS, None if it does not. Names files, not their contents: an engine goes on when its node's
            certificate is written anew.
    """

    id: str
    model: str
    kind: Literal["vllm", "sim"]
    model_path: str
    served_name: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    gpus: tuple[int, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 0
    python: str = sys.executable
    tls: Tls | None = None

    def parts(self) -> dict[str, str]:
        """Return a short digest of every part that cannot change without a restart: all but `id` and `port`.

        Digests, and not the values, because this goes to disk and arguments and variables may hold secrets.
        """
        fields = (name for name in self.__struct_fields__ if name not in {"id", "port"})
        return {name: _digest(getattr(self, name)) for name in fields}

    def fingerprint(self) -> str:
        """Return 16 hex digits over `parts`: equal for two specs if one's engine can stand in for the other's."""
        return _digest(self.parts())


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).hexdigest()
