"""Who routes: Shoal with each of its policies, and other routers with theirs, one gateway or several.

Everything that others have for routing is on, with their defaults; where they poll, they may poll as often as they can.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import shoal
from benchmarks.gateway.install import Installed, Installer, pypi
from benchmarks.gateway.processes import Command
from benchmarks.routing.engines import FASTER
from benchmarks.routing.workload import MODEL
from lib.progress import Step
from shoal.routing import registry

_ENGINE_PORTS = [
    30000,
    30999,
]  # none is started; gateways get ports below (`benchmarks.gateway.run.free_ports`)
_HEARTBEAT = 0.5  # seconds; Shoal's default cluster.heartbeat_interval


@dataclass(frozen=True)
class Gateway:
    """Where one gateway of a target runs.

    Attributes:
        port: to listen on.
        spare: two other free ports.
        directory: for its files.
    """

    port: int
    spare: tuple[int, int]
    directory: Path


@dataclass(frozen=True)
class Site:
    """Where all gateways of a target run.

    Attributes:
        program: the executable.
        gateways: one or more.
        engines: ports of the engines.
    """

    program: Path
    gateways: Sequence[Gateway]
    engines: Sequence[int]

    @property
    def urls(self) -> list[str]:
        """URLs of the engines."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True)
class Target:
    """One way to route.

    Attributes:
        name: in tables.
        policy: of Shoal; None for others.
        installer: gets the program.
        command: how to start one of the gateways of a site.
        quick: measured in a quick run too.
        several: measured with several gateways in a quick run too: what it knows is lost between gateways.
        patience: seconds it may take to start.
    """

    name: str
    policy: str | None
    installer: Installer
    command: Callable[[Site, int], Command]
    quick: bool = True
    several: bool = False
    patience: float = 60.0


def shoal_config(policy: str, site: Site) -> str:
    """Return a user's file for nodes in front of engines that run already; the rest is Shoal's defaults.

    Time runs faster here, so nodes tell each other of their requests more often by the same factor.
    """
    document = {
        "nodes": [{"host": "127.0.0.1", "port": gateway.port} for gateway in site.gateways],
        "models": [
            {
                "name": MODEL,
                "engine": "external",
                "policy": policy,
                "addresses": [{"url": url} for url in site.urls],
            }
        ],
        "cluster": {"secret": "bench-routing-on-loopback", "heartbeat_interval": _HEARTBEAT / FASTER},
        "gateway": {"workers": 1},
        "engines": {"ports": _ENGINE_PORTS},
        "state_dir": str(site.gateways[0].directory.parent / "state"),
    }
    return json.dumps(document, indent=1)  # JSON is YAML


def shoal_with(policy: str) -> Callable[[Site, int], Command]:
    """Return how to start ``shoal serve`` as a user does."""

    def command(site: Site, index: int) -> Command:
        gateway = site.gateways[index]
        file = gateway.directory / "shoal.yaml"
        file.write_text(shoal_config(policy, site))
        node = f"127.0.0.1:{gateway.port}"
        arguments = [str(site.program), "-m", "shoal.serve", "--config", str(file), "--node", node]
        return Command(arguments, {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})

    return command


def _shoal_installed(_: Path, __: TextIO, ___: Step) -> Installed:
    return Installed(Path(sys.executable), shoal.__version__)


def vllm_router(policy: str) -> Callable[[Site, int], Command]:
    """Its defaults with a policy."""

    def command(site: Site, index: int) -> Command:
        gateway = site.gateways[index]
        arguments = ["--host", "127.0.0.1", "--port", str(gateway.port), "--policy", policy]
        arguments += ["--log-level", "error", "--worker-startup-check-interval", "1"]
        arguments += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(gateway.spare[0])]
        return Command([str(site.program), *arguments, "--worker-urls", *site.urls])

    return command


def smg(policy: str) -> Callable[[Site, int], Command]:
    """Its defaults with a policy, loads polled each second; several gateways form its mesh."""

    def command(site: Site, index: int) -> Command:
        gateway = site.gateways[index]
        arguments = ["--host", "127.0.0.1", "--port", str(gateway.port), "--policy", policy]
        arguments += ["--log-level", "error", "--worker-startup-check-interval", "1"]
        arguments += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(gateway.spare[0])]
        arguments += ["--load-monitor-interval", "1", "--history-backend", "none"]
        arguments += ["--disable-tokenizer-autoload"]
        if len(site.gateways) > 1:
            arguments += ["--enable-mesh", "--mesh-server-name", f"gateway-{index}"]
            arguments += ["--mesh-host", "127.0.0.1", "--mesh-port", str(gateway.spare[1])]
            others = [g.spare[1] for g in site.gateways if g is not gateway]
            arguments += ["--mesh-peer-urls", *(f"127.0.0.1:{port}" for port in others)]
        return Command([str(site.program), "launch", *arguments, "--worker-urls", *site.urls])

    return command


_VLLM_ROUTER = pypi("vllm-router", "vllm-router")
_SMG = pypi("smg", "smg")
_LONG = frozenset({"weighted_round_robin"})  # the same as round_robin where all engines are equal
AFFINE = frozenset({"prefix_affinity"})


def targets() -> list[Target]:
    """Return all there are, Shoal's first."""
    ours = [
        Target(
            f"shoal {policy}",
            policy,
            _shoal_installed,
            shoal_with(policy),
            quick=policy not in _LONG,
            several=policy in AFFINE,
        )
        for policy in registry.POLICIES
    ]
    return [
        *ours,
        Target("vllm-router cache_aware", None, _VLLM_ROUTER, vllm_router("cache_aware"), several=True),
        Target("vllm-router power_of_two", None, _VLLM_ROUTER, vllm_router("power_of_two")),
        Target("vllm-router round_robin", None, _VLLM_ROUTER, vllm_router("round_robin")),
        Target("smg cache_aware", None, _SMG, smg("cache_aware"), several=True),
    ]
