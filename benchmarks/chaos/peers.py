"""The faults of engines for other routers: what their clients notice. On loopback, with the same simulated engines.

None of these starts or restarts engines; here it is done for them, after the time that Shoal's own settings say. What
they have against failures (retries, health checks, circuit breakers) is on, with times like Shoal's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.chaos.cluster import RESTART_DELAY, SIM_ARGS, STALL_TIMEOUT, ChaosError, wait_for
from benchmarks.chaos.faults.base import NODES, now
from benchmarks.chaos.faults.engines import EngineCoreDead, EngineHung, EngineKilled
from benchmarks.chaos.load import Load
from benchmarks.chaos.marked import MARK, end
from benchmarks.chaos.questions import MODEL
from benchmarks.chaos.results import Row, Trial, last_error, longest_pause
from benchmarks.chaos.trials import Plan
from benchmarks.gateway.install import Installed, Installer, UnavailableError, debian, pypi
from benchmarks.gateway.load import API_KEY
from benchmarks.gateway.peers import Site
from benchmarks.gateway.processes import Command, Running
from benchmarks.gateway.run import free_ports
from lib.progress import Step
from shoal.engine.command import cli_args
from shoal.sim.faults import CORE_EXITS_AFTER

_UP = 30.0  # seconds an engine may take to start
_AFTER = 3.0  # seconds after the engine's return in which errors still count to the trial
_HOUR = 3600
_LONGEST_ANSWER = 10.0  # seconds; 300 tokens take 6 on a busy machine


@dataclass(frozen=True)
class Peer:
    """One router.

    Attributes:
        name: in the table.
        installer: gets the program.
        command: how to start it; may write files into the site's directory.
        clients: open requests at most: what it can carry.
        chat_only: it makes chats of completions, or refuses them.
        patience: seconds it may take to start.
    """

    name: str
    installer: Installer
    command: Callable[[Site], Command]
    clients: int = 1000
    chat_only: bool = False
    patience: float = 60.0


def haproxy(site: Site) -> Command:
    """Health checks twice a second, retries of everything it can retry.

    It has one time for silence, before an answer and inside it: longer than the longest answer that is not streamed.
    """
    servers = "\n".join(f"  server e{i} 127.0.0.1:{port}" for i, port in enumerate(site.engines))
    file = site.directory / "haproxy.cfg"
    file.write_text(f"""\
global
  maxconn 2000
defaults
  mode http
  timeout connect 1s
  timeout client {_HOUR}s
  timeout server {_LONGEST_ANSWER:.0f}s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout 500 502 503
frontend clients
  bind 127.0.0.1:{site.port}
  default_backend engines
backend engines
  balance leastconn
  option httpchk GET /health
  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
""")
    return Command([str(site.program), "-db", "-f", str(file)])


def vllm_router(site: Site) -> Command:
    """Its defaults (retries and circuit breaker on), a health check each second."""
    arguments = ["--host", "127.0.0.1", "--port", str(site.port), "--policy", "round_robin"]
    arguments += [
        "--log-level",
        "error",
        "--prometheus-host",
        "127.0.0.1",
        "--prometheus-port",
        str(site.spare),
    ]
    arguments += ["--worker-startup-check-interval", "1", "--health-check-interval-secs", "1"]
    arguments += ["--health-check-timeout-secs", "1", "--health-failure-threshold", "2"]
    arguments += ["--health-success-threshold", "1", "--worker-urls", *site.urls]
    return Command([str(site.program), *arguments])


def litellm(site: Site) -> Command:
    """Retries, cooldowns of one second, silent streams given up like a stall."""
    deployments = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"hosted_vllm/{MODEL}",
                "api_base": f"{url}/v1",
                "api_key": "none",
                "stream_timeout": STALL_TIMEOUT,
            },
        }
        for url in site.urls
    ]
    settings = {
        "model_list": deployments,
        "litellm_settings": {"telemetry": False, "request_timeout": 2 * _LONGEST_ANSWER},
        "router_settings": {
            "routing_strategy": "simple-shuffle",
            "num_retries": 3,
            "allowed_fails": 1,
            "cooldown_time": 1,
        },
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


PEERS = (
    Peer("haproxy", debian("haproxy", "-v"), haproxy),
    Peer("vllm-router", pypi("vllm-router", "vllm-router"), vllm_router),
    Peer("litellm", pypi("litellm[proxy]", "litellm"), litellm, clients=8, chat_only=True, patience=120.0),
)


class Engines:
    """Simulated engines without anybody who looks after them.

    Args:
        directory: for their logs.
        stack: ends them.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.ports = free_ports(NODES)
        self._directory = directory
        self._mark = f"{os.getpid()}-{directory.name}"
        stack.callback(end, self._mark)
        self._running: list[Running] = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> Running:
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--model", MODEL, *cli_args(SIM_ARGS)]
        folder = self._directory / f"engine-{port}"
        folder.mkdir(exist_ok=True)
        variables = {MARK: self._mark, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        command = Command([sys.executable, "-m", "shoal.sim", *arguments], variables)
        return Running("engine", command, sorted(os.sched_getaffinity(0)), folder)

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to one."""
        psutil.Process(self._running[index].process.pid).send_signal(number)

    async def restart(self, index: int) -> None:
        """End one, whatever its state, and start another in its place; return when it answers.

        Raises:
            ChaosError: it does not.
        """
        self._running[index].process.kill()
        self._running[index].process.wait()
        self._running[index] = self._start(self.ports[index])
        await self.up(index)

    async def up(self, index: int) -> None:
        """Return when one answers.

        Raises:
            ChaosError: it does not.
        """
        if await wait_for(lambda: _healthy(self.ports[index]), _UP) is None:
            raise ChaosError(f"an engine does not start: {self._running[index].last_words()}")


async def _healthy(port: int) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as http:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        except httpx.HTTPError:
            return False


async def _order_core_death(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as http:
        await http.post(f"http://127.0.0.1:{port}/sim/fault", json={"kind": "core"})


async def _strike(fault: str, engines: Engines, index: int) -> float:
    """Let a fault strike; return after how many seconds Shoal would start another engine."""
    if fault == EngineKilled.name:
        engines.send(index, signal.SIGKILL)
        return RESTART_DELAY
    if fault == EngineHung.name:
        engines.send(index, signal.SIGSTOP)
        return STALL_TIMEOUT + RESTART_DELAY
    await _order_core_death(engines.ports[index])
    return CORE_EXITS_AFTER + RESTART_DELAY


FAULTS = (EngineKilled.name, EngineHung.name, EngineCoreDead.name)


async def run(faults: Sequence[str], plan: Plan, cache: Path, say: Callable[[str], None]) -> list[Row]:
    """Try those of `faults` that are of engines on every peer; a peer that cannot be had is told in its row."""
    rows: list[Row] = []
    wanted = [fault for fault in FAULTS if fault in faults]
    for peer in PEERS if wanted else ():
        try:
            say(f"{peer.name}: installing")
            with (cache / "install.log").open("a") as log:
                program = peer.installer(cache, log, Step())
        except UnavailableError as error:
            rows.append(Row(peer.name, "faults of engines", skipped=str(error)))
            continue
        mine = dataclasses.replace(plan, clients=min(plan.clients, peer.clients))
        for fault in wanted:
            row = Row(f"{peer.name} {program.version}", fault)
            await _run_fault(row, peer, program, mine, say)
            rows.append(row)
    return rows


async def _run_fault(
    row: Row, peer: Peer, program: Installed, plan: Plan, say: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-chaos-")))
        engines = Engines(directory, stack)
        port, spare = free_ports(2)
        folder = directory / re.sub(r"\W+", "-", peer.name)
        folder.mkdir()
        try:
            for index in range(NODES):
                await engines.up(index)
            command = peer.command(Site(program.path, folder, port, spare, engines.ports))
            router = Running(peer.name, command, sorted(os.sched_getaffinity(0)), folder)
            stack.callback(router.stop)
            if await wait_for(lambda: _answers(port), peer.patience) is None:
                raise ChaosError(f"gave no answer within {peer.patience:.0f} s: {router.last_words()}")
            load = Load(
                [("127.0.0.1", port)],
                plan.clients,
                f"{row.system} {row.fault}",
                strict=False,
                chat_only=peer.chat_only,
                api_key=API_KEY,
            )
            await _trials(row, engines, load, plan.trials, say)
        except ChaosError as error:
            row.problem(str(error))


async def _trials(row: Row, engines: Engines, load: Load, trials: int, say: Callable[[str], None]) -> None:
    load.start()
    try:
        await load.warm()
        for number in range(trials):
            say(f"{row.system}, {row.fault}: trial {number + 1} of {trials}")
            struck = now()
            delay = await _strike(row.fault, engines, number % NODES)
            await asyncio.sleep(max(0.0, struck + delay - now()))
            await engines.restart(number % NODES)
            recovery = now() - struck
            await load.settle()
            await asyncio.sleep(_AFTER)
            errors = last_error(load.requests, struck, now())
            row.trials.append(Trial(None, recovery, errors, longest_pause(load.requests, struck, now())))
    finally:
        await load.abort()
        row.count(load.requests)


async def _answers(port: int) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(trust_env=False, timeout=5.0, headers=headers) as http:
        try:
            reply = await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
            return reply.status_code == 200 and "choices" in reply.json()
        except (httpx.HTTPError, ValueError):
            return False
