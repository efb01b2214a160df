"""Command line and environment of an engine."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.config.engine_command import filled
from shoal.engine.executors import executor
from shoal.engine.interfaces import group_environment
from shoal.engine.machine import Machine
from shoal.engine.spec import EngineSpec

LAUNCHER = Path(__file__).resolve().with_name("vllm_launcher.py")
MARKER = "SHOAL_ENGINE"
"""Variable that marks every process of an engine; its value is unique to one start of one engine."""

_LEFT_BEHIND = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"""What systemd tells a service's own process and nobody else (sd_notify(3), sd_listen_fds(3))."""

_PROBED = "/health,/metrics,/v1/models"

GIB = 1024**3


def cli_args(args: Mapping[str, Any] | Sequence[Any]) -> tuple[str, ...]:
    """Return engine arguments as a command line, in the order given.

    A mapping holds options: ``max_model_len: 2048`` (or ``max-model-len``) becomes ``--max-model-len 2048``; ``true`` a
    bare flag, ``false`` its opposite ``--no-...``, None nothing at all, a list several values after one option, a
    mapping JSON. Names that begin with a dash stay as they are (``-tp``), and so does what follows a dot
    (``--compilation-config.cudagraph_mode``), as in vLLM's own parser. Anything but a mapping is a finished command
    line whose items only become strings.

    Raises:
        TypeError: `args` is a single string, where a list was meant.
    """
    if isinstance(args, str):
        raise TypeError(f"engine arguments must be a mapping or a list, not one string: {args!r}")
    if not isinstance(args, Mapping):
        return tuple(str(item) for item in args)
    words: list[str] = []
    for name, value in args.items():
        words += _option(name, value)
    return tuple(words)


def _option(name: str, value: Any) -> list[str]:
    if not name.startswith("-"):
        head, dot, rest = name.partition(".")
        name = f"--{head.replace('_', '-')}{dot}{rest}"
    if value is None:
        return []
    if value is True:
        return [name]
    if value is False:
        return [f"--no-{name.removeprefix('--')}"]
    if isinstance(value, list | tuple):
        return [name, *(_word(item) for item in value)]
    word = _word(value)
    # A value that looks like an option must be tied to its own.
    return [f"{name}={word}"] if word.startswith("-") and name.startswith("--") else [name, word]


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, Mapping | list | tuple | bool) else str(value)


def option(args: Sequence[str], *names: str) -> str | None:
    """Return the value of an option in a command line, ``""`` for a bare flag, None when it is not there.

    Args:
        args: the command line.
        names: the option's spellings, with their dashes. In long ones ``_`` and ``-`` are the same, as for vLLM.
    """
    wanted = {_plain(name) for name in names}
    found = None
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.startswith("-") and _plain(name) in wanted:
            following = args[place + 1] if place + 1 < len(args) else "-"
            found = value if equals else ("" if following.startswith("-") else following)
    return found  # the last one counts, as for argparse


def _plain(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") else name


def command(spec: EngineSpec, machine: Machine | None = None) -> list[str]:
    """Return the command line that starts `spec`.

    Args:
        spec: the engine.
        machine: what it runs on; with it, an engine on the CPU gets the defaults of `cpu_args`.
    """
    if spec.kind == "command":
        return _program(spec)
    words = _sim_command(spec) if spec.kind == "sim" else _vllm_command(spec, machine)
    return words if spec.part is None else executor(spec.part.executor).command(words, spec.part)


def _sim_command(spec: EngineSpec) -> list[str]:
    where = ["--host", spec.host, "--port", str(spec.port), "--model", spec.served_name]
    return [sys.executable, "-m", "shoal.sim", *where, *spec.args, *tls_args(spec)]


def _vllm_command(spec: EngineSpec, machine: Machine | None) -> list[str]:
    words = [spec.python, str(LAUNCHER), "serve", spec.model_path]
    if option(spec.args, "--served-model-name") is None:
        words += ["--served-model-name", spec.served_name]
    if machine is not None and spec.gpus == ():
        words += cpu_args(spec, machine)
    if option(spec.args, "--disable-access-log-for-endpoints", "--disable-uvicorn-access-log") is None:
        words += ["--disable-access-log-for-endpoints", _PROBED]  # a line a second would bury what matters
    # These come last, so that they win: routing depends on them.
    return [*words, *spec.args, "--host", spec.host, "--port", str(spec.port), *tls_args(spec)]


def _program(spec: EngineSpec) -> list[str]:
    """Return the command line of an engine that is some other program, behind `shoal.engine.front` where TLS is on."""
    words = filled(
        spec.args,
        {"model": spec.model_path, "name": spec.served_name, "gpus": str(len(spec.gpus or ()))},
    )
    where = {"host": spec.host, "port": str(spec.port)}
    if spec.tls is None:
        return filled(tuple(words), where)
    front = [sys.executable, "-m", "shoal.engine.front", "--host", spec.host, "--port", str(spec.port)]
    files = ["--ca", spec.tls.ca, "--certificate", spec.tls.certificate, "--key", spec.tls.key]
    return [*front, *files, "--", *words]


def tls_args(spec: EngineSpec) -> tuple[str, ...]:
    """Return the arguments with which the engine, vLLM or simulated, takes clients with the cluster's certificate only.

    They are uvicorn's, and so is the check: it is part of the TLS handshake, before there is any request.
    """
    if spec.tls is None:
        return ()
    files = (
        "--ssl-keyfile",
        spec.tls.key,
        "--ssl-certfile",
        spec.tls.certificate,
        "--ssl-ca-certs",
        spec.tls.ca,
    )
    return (*files, "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED)))


def environment(
    spec: EngineSpec, base: Mapping[str, str], marker: str, machine: Machine | None = None
) -> dict[str, str]:
    """Return the environment `spec` starts with.

    Args:
        spec: the engine; its `env` wins over `base`, and `base` over our defaults.
        base: environment of the node process. Its ``SHOAL_*`` variables, the cluster's secret may be among them,
            and what systemd meant for the node process alone are left out.
        marker: value of `MARKER`.
        machine: what it runs on; with it, a vLLM engine on the CPU gets the defaults of `cpu_environment`.
    """
    ours = {name: v for name, v in base.items() if not name.startswith("SHOAL_") and name not in _LEFT_BEHIND}
    # The last words of a process that dies must be in its log, and a native crash must leave a traceback there.
    defaults = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if machine is not None and spec.kind == "vllm" and spec.gpus == ():
        defaults |= cpu_environment(spec, machine, {**ours, **spec.env})
    if spec.part is not None:
        defaults |= group_environment(spec.part.address, spec.part.interface)
    fixed = {MARKER: marker}
    if spec.gpus is not None:
        fixed["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.gpus))
    if spec.gpus:
        fixed["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # CUDA's own order is by speed, NVML's indices by bus
    return {**defaults, **ours, **fixed, **spec.env, MARKER: marker}


def cpu_environment(spec: EngineSpec, machine: Machine, given: Mapping[str, str]) -> dict[str, str]:
    """Return defaults for vLLM on CPUs, where its own assume that the machine is there for one engine alone.

    - *Threads.* vLLM binds its threads to cores, the same ones in every engine, and wants a NUMA node for each
      worker (``utils/ompmultiprocessing.py``). With several engines or workers on the machine the threads are left
      unbound and the cores are shared out. One engine with one worker keeps vLLM's binding.
    - *KV cache.* vLLM takes 92 % of all memory and refuses to start when that much is not free
      (``v1/worker/cpu_worker.py``). The default here is a quarter of a NUMA node's memory, shared by the engines, and
      at least 1 GiB, unless an argument or variable says otherwise.

    Args:
        spec: the engine, whose arguments are looked at.
        machine: cores, memory and number of engines.
        given: variables that are set already; those are not returned.
    """
    defaults = {}
    workers = max(1, _number(spec.args, "--tensor-parallel-size", "-tp"))
    workers *= max(1, _number(spec.args, "--pipeline-parallel-size", "-pp"))
    workers *= max(1, _number(spec.args, "--data-parallel-size", "-dp"))
    workers = max(1, workers // len(spec.part.nodes)) if spec.part is not None else workers
    if machine.engines * workers > 1 and "VLLM_CPU_OMP_THREADS_BIND" not in given:
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        defaults["OMP_NUM_THREADS"] = str(max(1, machine.cores // (machine.engines * workers)))
    sized = option(
        spec.args, "--kv-cache-memory-bytes", "--gpu-memory-utilization", "--num-gpu-blocks-override"
    )
    if sized is None:
        share = machine.memory // 4 // (machine.engines * workers)
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, share // GIB))
    return {name: value for name, value in defaults.items() if name not in given}


def cpu_args(spec: EngineSpec, machine: Machine) -> tuple[str, ...]:
    """Return default arguments for vLLM on CPUs: no compilation on a machine that has no C++ compiler.

    torch.compile builds C++ there and vLLM dies without a compiler (``InvalidCxxCompiler``).
    """
    chosen = option(spec.args, "--enforce-eager", "--no-enforce-eager", "--compilation-config", "-cc", "-O")
    return () if machine.cxx or chosen is not None else ("--enforce-eager",)


def api_key(spec: EngineSpec, base: Mapping[str, str]) -> str | None:
    """Return the key the engine will ask for, from its arguments or its environment; None when it asks for none."""
    return key_of(spec.args, spec.env, base)


def key_of(args: Sequence[str], env: Mapping[str, str], base: Mapping[str, str]) -> str | None:
    """Return the key that an engine with these arguments and variables asks for; see `api_key`."""
    return option(args, "--api-key") or env.get("VLLM_API_KEY") or base.get("VLLM_API_KEY") or None


def shown(words: Sequence[str]) -> str:
    """Return a command line for a log, with the values of options that name secrets left out."""
    shown_words = []
    secret = False
    for word in words:
        name, equals, _ = word.partition("=")
        is_option = word.startswith("-")
        hides = is_option and any(part in name.lower() for part in ("key", "token", "password", "secret"))
        if secret and not is_option:
            shown_words.append("***")
        else:
            shown_words.append(f"{name}=***" if hides and equals else word)
            secret = hides and not equals
    return " ".join(shown_words)


def _number(args: Sequence[str], *names: str) -> int:
    value = option(args, *names)
    return int(value) if value and value.isdecimal() else 1
