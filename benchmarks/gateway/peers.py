"""Who is measured, and how each one is started: one worker or core, and settings in its favour.

Wherever a router lets us, what costs time and is not forwarding is off: access logs, retries, circuit breakers,
periodic health checks. Shoal alone runs as a user gets it, with everything on that is on by default.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TextIO

import shoal
from benchmarks.gateway.install import Installed, Installer, UnavailableError, debian, pypi
from benchmarks.gateway.load import API_KEY
from benchmarks.gateway.processes import Command
from lib.progress import Step

_CONNECTIONS = 8192  # that a router may have open; below the usual limits on descriptors
_HOUR = 3600


class Kind(Enum):
    """What a target is, for the budgets."""

    DIRECT = "direct"
    PROXY = "proxy"
    RUST = "rust"
    PYTHON = "python"
    SHOAL = "shoal"
    PART = "part"  # of another target


@dataclass(frozen=True)
class Site:
    """Where a target runs.

    Attributes:
        program: its executable.
        directory: for its files.
        port: to listen on.
        spare: another free port.
        engines: ports of the fake engines.
    """

    program: Path
    directory: Path
    port: int
    spare: int
    engines: Sequence[int]

    @property
    def urls(self) -> list[str]:
        """URLs of the engines."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True)
class Target:
    """One way to reach the engines.

    Attributes:
        name: in the table.
        kind: for the budgets.
        installer: gets the program; None when there is none.
        command: how to start it; may write files into the site's directory.
        quick: measured in a quick run too.
        pair: needs two cores for itself.
        patience: seconds it may take to start.
    """

    name: str
    kind: Kind
    installer: Installer | None = None
    command: Callable[[Site], Command] | None = None
    quick: bool = False
    pair: bool = False
    patience: float = 60.0


def nginx(site: Site) -> Command:
    """One worker process, connections to the engines kept, nothing buffered or logged."""
    user = "user root;" if os.geteuid() == 0 else ""
    servers = " ".join(f"server 127.0.0.1:{port};" for port in site.engines)
    folder = site.directory
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""\
{user} worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections {_CONNECTIONS}; }}
http {{
  access_log off; {temporary}
  keepalive_requests 1000000000;
  upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout {_HOUR};
      client_max_body_size 64m;
      client_body_buffer_size 1m;
    }}
  }}
}}
"""
    file = folder / "nginx.conf"
    file.write_text(text)
    return Command([str(site.program), "-p", str(folder), "-e", "stderr", "-c", str(file)])


def haproxy(site: Site) -> Command:
    """One thread, connections to the engines kept and shared, streams forwarded at once, no log."""
    servers = "\n".join(f"  server e{i} 127.0.0.1:{port}" for i, port in enumerate(site.engines))
    text = f"""\
global
  nbthread 1
  maxconn {_CONNECTIONS // 2}
defaults
  mode http
  timeout connect 5s
  timeout client {_HOUR}s
  timeout server {_HOUR}s
  option http-keep-alive
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{site.port} backlog 4096
  default_backend engines
backend engines
  balance roundrobin
{servers}
"""
    file = site.directory / "haproxy.cfg"
    file.write_text(text)
    return Command([str(site.program), "-db", "-f", str(file)])


_LEAN = (
    *("--host", "127.0.0.1", "--log-level", "error", "--worker-startup-check-interval", "1"),
    *("--disable-retries", "--disable-circuit-breaker", "--prometheus-host", "127.0.0.1"),
)


def vllm_router(policy: str) -> Callable[[Site], Command]:
    """No retries, no circuit breaker, no health checks under way, no limit on requests."""

    def command(site: Site) -> Command:
        arguments = [
            *_LEAN,
            "--policy",
            policy,
            "--port",
            str(site.port),
            "--prometheus-port",
            str(site.spare),
        ]
        arguments += ["--health-check-interval-secs", str(_HOUR)]
        arguments += ["--max-concurrent-requests", str(_CONNECTIONS), "--worker-urls", *site.urls]
        return Command([str(site.program), *arguments])

    return command


def sglang_router(policy: str) -> Callable[[Site], Command]:
    """No retries, no circuit breaker, no health checks."""

    def command(site: Site) -> Command:
        arguments = [
            *_LEAN,
            "--policy",
            policy,
            "--port",
            str(site.port),
            "--prometheus-port",
            str(site.spare),
        ]
        arguments += ["--disable-health-check", "--worker-urls", *site.urls]
        return Command([str(site.program), "launch", *arguments])

    return command


def smg(policy: str) -> Callable[[Site], Command]:
    """No retries, no circuit breaker, no health checks, no load monitoring, no history, engine connections kept."""

    def command(site: Site) -> Command:
        arguments = [
            *_LEAN,
            "--policy",
            policy,
            "--port",
            str(site.port),
            "--prometheus-port",
            str(site.spare),
        ]
        arguments += ["--disable-health-check", "--disable-load-monitoring", "--history-backend", "none"]
        arguments += ["--disable-tokenizer-autoload", "--upstream-pool-idle-timeout-secs", "0"]
        return Command([str(site.program), "launch", *arguments, "--worker-urls", *site.urls])

    return command


def litellm(site: Site) -> Command:
    """One worker in production mode, simple shuffle, no retries, no database, no telemetry."""
    deployments = [
        {
            "model_name": "bench",
            "litellm_params": {"model": "openai/bench", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in site.urls
    ]
    settings = {
        "model_list": deployments,
        "litellm_settings": {"telemetry": False, "request_timeout": _HOUR},
        "router_settings": {"routing_strategy": "simple-shuffle", "num_retries": 0},
    }
    file = site.directory / "litellm.yaml"
    file.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    environment = {
        "DISABLE_ADMIN_UI": "True",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": API_KEY,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "PATH": f"{site.program.parent}:{os.environ.get('PATH', '')}",
    }
    arguments = ["--config", str(file), "--host", "127.0.0.1", "--port", str(site.port), "--num_workers", "1"]
    return Command([str(site.program), *arguments], environment)


def shoal_config(port: int, engines: Sequence[int], workers: int, state: Path) -> str:
    """Return a user's file for one node in front of engines that run already; the rest is Shoal's defaults."""
    addresses = "".join(f"      - url: http://127.0.0.1:{engine}\n" for engine in engines)
    return f"""\
nodes:
  - host: 127.0.0.1
    port: {port}
models:
  - name: bench
    engine: external
    policy: least_connections
    addresses:
{addresses}gateway:
  workers: {workers}
  keys:
    api_keys: [{API_KEY}]
state_dir: {json.dumps(str(state))}
"""


def shoal_with(workers: int) -> Callable[[Site], Command]:
    """Return how to start ``shoal serve`` as a user does."""

    def command(site: Site) -> Command:
        file = site.directory / "shoal.yaml"
        file.write_text(shoal_config(site.port, site.engines, workers, site.directory / "state"))
        return Command([str(site.program), "serve", "--config", str(file)])

    return command


def _shoal_installed(_: Path, __: TextIO, ___: Step) -> Installed:
    path = Path(sys.executable).parent / "shoal"
    if not path.exists():
        raise UnavailableError(f"there is no `shoal` beside {sys.executable}")
    return Installed(path, shoal.__version__)


_VLLM_ROUTER = pypi("vllm-router", "vllm-router")
_SGLANG_ROUTER = pypi("sglang-router", "sglang-router")
_SMG = pypi("smg", "smg")

TARGETS = (
    Target("direct", Kind.DIRECT, quick=True),
    Target("nginx", Kind.PROXY, debian("nginx", "-v"), nginx, quick=True),
    Target("haproxy", Kind.PROXY, debian("haproxy", "-v"), haproxy),
    Target("vllm-router round_robin", Kind.RUST, _VLLM_ROUTER, vllm_router("round_robin"), quick=True),
    Target("vllm-router cache_aware", Kind.RUST, _VLLM_ROUTER, vllm_router("cache_aware")),
    Target("sglang-router round_robin", Kind.RUST, _SGLANG_ROUTER, sglang_router("round_robin"), quick=True),
    Target("sglang-router cache_aware", Kind.RUST, _SGLANG_ROUTER, sglang_router("cache_aware")),
    Target("smg round_robin", Kind.RUST, _SMG, smg("round_robin")),
    Target("smg cache_aware", Kind.RUST, _SMG, smg("cache_aware")),
    Target("litellm", Kind.PYTHON, pypi("litellm[proxy]", "litellm"), litellm, patience=120.0),
    Target("shoal", Kind.SHOAL, _shoal_installed, shoal_with(1), quick=True),
    Target("shoal, 2 workers", Kind.PART, _shoal_installed, shoal_with(2), quick=True, pair=True),
)
