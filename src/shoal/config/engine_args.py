"""Engine arguments: how they are written, and which ones Shoal sets itself and nobody else may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shoal.config.base import typed
from shoal.config.errors import SettingPath, printable, shorten

Args = dict[str, Any] | tuple[str, ...]
"""``max_model_len: 2048`` as a mapping, or the command line itself as a list of texts."""

PORTS = "Shoal gives each engine its address and port (see `engines.ports`)"
"""Why nobody else may."""
_TLS = "Shoal secures the engines' ports itself, with certificates made from `cluster.secret` (see `cluster.tls`)"
_TLS_OPTIONS = (
    "ssl-keyfile",
    "ssl-certfile",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "ssl-ciphers",
    "enable-ssl-refresh",
)
_GROUPS = "Shoal forms groups of nodes itself (`type: xlarge`)"
_BALANCE = "Shoal starts and balances the engines itself (`engines_per_node`)"
_GPUS = "Shoal gives each engine its GPUs (`gpus` of a node, `gpus_per_engine` of a model)"
_HTTP = "Shoal's gateways speak HTTP over TCP to the engines"
_VLLM_RESERVED = {
    "model": "it is the model's `path`",
    "served-model-name": "it is the model's `name`",
    "host": PORTS,
    "port": PORTS,
    "uds": _HTTP,
    "grpc": _HTTP,
    "grpc-port": _HTTP,
    "root-path": "Shoal passes requests on under the paths of vLLM",
    "api-key": "with a key of its own the engine would refuse the gateways; " + _TLS,
    **dict.fromkeys(_TLS_OPTIONS, _TLS),
    "config": "write the arguments here, where all nodes see the same",
    "device-ids": _GPUS,
    "nnodes": _GROUPS,
    "node-rank": _GROUPS,
    "master-addr": _GROUPS,
    "master-port": _GROUPS,
    "headless": _GROUPS,
    "data-parallel-rank": _BALANCE,
    "data-parallel-start-rank": _BALANCE,
    "data-parallel-size-local": _BALANCE,
    "data-parallel-address": _BALANCE,
    "data-parallel-rpc-port": _BALANCE,
    "data-parallel-hybrid-lb": _BALANCE,
    "data-parallel-external-lb": _BALANCE,
    "data-parallel-multi-port-external-lb": _BALANCE,
    "data-parallel-supervisor-port": _BALANCE,
}
_RESERVED: dict[str, dict[str, str]] = {
    "vllm": _VLLM_RESERVED,
    "sim": {
        "host": PORTS,
        "port": PORTS,
        "model": "it is the model's `name`",
        **dict.fromkeys(_TLS_OPTIONS, _TLS),
    },
}
# vLLM's argument parser takes any unambiguous beginning of a name for the name, so `--served` is reserved as
# well. These are names of their own that happen to be the beginning of a reserved one.
_NOT_ABBREVIATIONS = frozenset({"data-parallel-size"})
_SHORT = {
    "-n": "nnodes",
    "-r": "node-rank",
    "-dpn": "data-parallel-rank",
    "-dpr": "data-parallel-start-rank",
    "-dpl": "data-parallel-size-local",
    "-dpa": "data-parallel-address",
    "-dpp": "data-parallel-rpc-port",
    "-dph": "data-parallel-hybrid-lb",
    "-dpe": "data-parallel-external-lb",
    "-dpm": "data-parallel-multi-port-external-lb",
}
RESERVED_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": _GPUS,
    "SHOAL_ENGINE": "Shoal marks its engines with it",
    "VLLM_API_KEY": _VLLM_RESERVED["api-key"],
}


class ArgumentError(ValueError):
    """An argument is not written as one can be.

    Attributes:
        below: where it is below ``args``.
    """

    def __init__(self, message: str, *below: str | int) -> None:
        self.below: SettingPath = below
        super().__init__(message)


def check_args(value: Any) -> Args:
    """Return engine arguments in the form `Args`.

    Raises:
        ArgumentError: they are not written as arguments can be; the message says what is right.
    """
    if isinstance(value, Mapping):
        return {key: _mapped(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_listed(i, item) for i, item in enumerate(value))
    raise ArgumentError(
        "it must be a mapping (max_model_len: 2048) or a list of texts (- --max-model-len=2048)"
    )


def reserved(args: Args, engine: str) -> Iterator[tuple[SettingPath, str]]:
    """Yield the arguments that Shoal sets itself: (path below ``args``, why nobody else may)."""
    known = _RESERVED.get(engine, {})
    named: list[tuple[SettingPath, str]]
    if isinstance(args, Mapping):
        named = [((key,), f"--{key}") for key in args]
    else:
        named = [((i,), item) for i, item in enumerate(args) if item.startswith("-")]
    for path, written in named:
        name = _reserved_name(written.partition("=")[0], known, engine)
        if name is not None:
            yield path, f"--{name} cannot be set here: {known[name]}"


def _reserved_name(option: str, known: Mapping[str, str], engine: str) -> str | None:
    if engine == "vllm" and option in _SHORT:
        return _SHORT[option]
    if not option.startswith("--"):
        return None
    name = option[2:].replace("_", "-").partition(".")[0]
    name = name if name in known else name.removeprefix("no-")
    if not name or name in _NOT_ABBREVIATIONS:
        return None
    return next((r for r in sorted(known) if r.startswith(name)), None)


def _mapped(key: str, value: Any) -> Any:
    if key.startswith("-"):
        raise ArgumentError("the name of an argument is written without the dashes in front here", key)
    if not key or any(c.isspace() or c == "=" for c in key):
        raise ArgumentError("the name of an argument has no spaces and no = in it", key)
    if value is None:
        raise ArgumentError("write true for an argument without a value", key)
    return _settled(value)


def _settled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _settled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_settled(item) for item in value]
    return typed(value, takes_text=False)


def _listed(i: int, item: Any) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise ArgumentError("in a list every argument must be text, as on a command line", i)
    text = str(item)
    if text.startswith("-") and " " in text.partition("=")[0]:
        name, _, rest = text.partition(" ")
        fixed = printable(shorten(f"{name}={rest.strip()}"))
        raise ArgumentError(f"an argument and its value must be two entries, or one like {fixed}", i)
    return text
