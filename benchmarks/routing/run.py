"""A whole run: get the programs, start engines and targets, send every workload through each, end everything."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx
import psutil

from benchmarks.gateway.install import Installed, Installer, UnavailableError, cache_folder
from benchmarks.gateway.load import API_KEY
from benchmarks.gateway.processes import Running, spawn
from benchmarks.gateway.run import alone, free_ports
from benchmarks.routing.client import Client
from benchmarks.routing.engines import ENGINES, Hardware, quantile
from benchmarks.routing.inprocess import InProcess
from benchmarks.routing.oracle import BOUND, Oracle
from benchmarks.routing.plan import GOALS, Plan, Workloads
from benchmarks.routing.results import ORACLE, UNBOUNDED, Row, Sample, problem_counts, sample_of
from benchmarks.routing.targets import Gateway, Site, Target
from benchmarks.routing.virtual import Simulation
from benchmarks.routing.workload import MODEL, Workload
from lib.progress import Steps

_BOUNDS = {ORACLE: BOUND, UNBOUNDED: None}  # of the oracles, by their names in tables
_SETTLE = 1.0  # seconds after the first answer, for routers that find engines one by one
_LIMIT = 90.0  # seconds that a workload may take
_QUESTION = {"model": MODEL, "prompt": "hello", "max_tokens": 1}


class Engines:
    """The process with the simulated engines.

    Args:
        directory: for its log.
        number: of this one among several.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.ports = free_ports(ENGINES)
        words = [*map(str, self.ports), "--", *Hardware().arguments()]
        self._log = (directory / f"engines-{number}.log").open("wb")
        self._process = spawn(
            [sys.executable, "-m", "benchmarks.routing.host", *words],
            sorted(os.sched_getaffinity(0)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    async def ask(self, command: str) -> dict[str, Any]:
        """Give a command and return the answer."""
        return await asyncio.to_thread(self._ask, command)

    def _ask(self, command: str) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(command.encode() + b"\n")
        process.stdin.flush()
        while line := process.stdout.readline():
            if line.startswith(b"{"):  # what is not one is what an engine says at its start
                return dict(json.loads(line))
        raise RuntimeError("the simulated engines have ended")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def install(targets: Sequence[Target], log: TextIO) -> dict[str, Installed | str]:
    """Get the targets' programs; return, by target, the program or why there is none."""
    installers: dict[Installer, str] = {}
    for target in targets:
        installers.setdefault(target.installer, target.name.split()[0])
    steps = Steps(len(installers))
    found: dict[Installer, Installed | str] = {}
    for installer, name in installers.items():
        with steps.step(name) as step:
            try:
                found[installer] = installer(cache_folder(), log, step)
            except UnavailableError as error:
                found[installer] = str(error)
    return {target.name: found[target.installer] for target in targets}


@dataclass(frozen=True)
class Job:
    """One workload through a target.

    Attributes:
        workload: which.
        seed: of it.
        rate: of arrivals, over the usual.
    """

    workload: str
    seed: int
    rate: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A target that is up: its gateways, and a process for each."""

    gateways: Sequence[Gateway]
    running: Sequence[Running]


@dataclass(frozen=True)
class Visit:
    """A target is started, gets some workloads, and is stopped."""

    target: Target
    gateways: int
    jobs: Sequence[Job]


def visits(targets: Sequence[Target], plan: Plan) -> list[Visit]:
    """Return all there is to do; each repeat begins with another target."""
    found: list[Visit] = []
    for seed in range(1, plan.seeds + 1):
        for gateways in plan.gateways:
            chosen = [t for t in targets if gateways == 1 or t.several or not plan.quick]
            turn = (seed - 1) * len(chosen) // plan.seeds
            for target in chosen[turn:] + chosen[:turn]:
                jobs = [Job(workload, seed) for workload in plan.requests]
                if seed == 1 and gateways == 1:
                    jobs += [Job(workload, 1, rate) for rate in plan.ladder for workload in plan.requests]
                found.append(Visit(target, gateways, jobs))
    return found


def simulate(workload: Workload, gateways: int, name: str, goal: float, **more: Any) -> tuple[Sample, float]:
    """Run a workload in virtual time, with an oracle or one of Shoal's policies.

    Returns:
        Its figures, and the hit rate of a cache without end.
    """
    simulation = Simulation(workload, Hardware(), ENGINES, gateways)
    engines = simulation.engines
    router = Oracle(engines, _BOUNDS[name]) if name in _BOUNDS else InProcess(name, engines, gateways)
    simulation.run(router)
    sample = sample_of(simulation.answered, simulation.looks, simulation.hit_rate, goal, **more)
    return sample, simulation.endless_hit_rate


class Run:
    """Everything of one run.

    Args:
        plan: what to do.
        workloads: makes the loads.
        say: shows what is going on.
    """

    def __init__(self, plan: Plan, workloads: Workloads, say: Callable[[str], None]) -> None:
        self.rows: dict[tuple[str, str, int], Row] = {}
        self.endless: dict[str, float] = {}
        self._plan = plan
        self._workloads = workloads
        self._say = say

    def row(self, target: str, version: str, workload: str, gateways: int) -> Row:
        """Return the row of that, a new one if there is none yet."""
        return self.rows.setdefault((target, workload, gateways), Row(target, version, workload, gateways))

    def bounds(self) -> None:
        """Find out what oracles reach. They know the true state: the number of gateways does not matter to them."""
        for workload, name in itertools.product(self._plan.requests, _BOUNDS):
            ends = []
            for job in [Job(workload, seed + 1) for seed in range(self._plan.seeds)]:
                made = self._workloads.make(workload, job.seed)
                sample, endless = simulate(made, 1, name, GOALS[workload], seed=job.seed)
                ends.append(endless)
                for gateways in self._plan.gateways:
                    self.row(name, "", workload, gateways).samples.append(sample)
            for rate in self._plan.ladder:
                made = self._workloads.make(workload, 1, rate)
                sample, _ = simulate(made, 1, name, GOALS[workload], rate=rate)
                self.row(name, "", workload, 1).ladder.append(sample)
            self.endless[workload] = sum(ends) / len(ends)

    def simulate(self, policies: Sequence[str]) -> None:
        """Run Shoal's policies in this process and in virtual time: exact and quick, but not the real gateways."""
        for policy in policies:
            self._say(policy)
            for gateways in self._plan.gateways:
                for workload in self._plan.requests:
                    row = self.row(f"shoal {policy}", "", workload, gateways)
                    for seed in range(1, self._plan.seeds + 1):
                        made = self._workloads.make(workload, seed)
                        sample, _ = simulate(made, gateways, policy, GOALS[workload], seed=seed)
                        row.samples.append(sample)
                    for rate in self._plan.ladder if gateways == 1 else ():
                        made = self._workloads.make(workload, 1, rate)
                        sample, _ = simulate(made, 1, policy, GOALS[workload], rate=rate)
                        row.ladder.append(sample)

    async def measure(self, targets: Sequence[Target]) -> None:
        """Send everything through every target."""
        for target in targets:
            for gateways in self._plan.gateways:
                for workload in self._plan.requests:
                    if gateways == 1 or target.several or not self._plan.quick:
                        self.row(target.name, "", workload, gateways)
        cache = cache_folder()
        with alone(cache), contextlib.ExitStack() as stack:
            with (cache / "install.log").open("a") as log:
                programs = install(targets, log)
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
            todo = list(enumerate(visits(targets, self._plan)))
            count = len(todo)
            todo.reverse()

            async def lane(engines: Engines) -> None:
                while todo:
                    number, visit = todo.pop()
                    many = f"{visit.gateways} gateway{'s' if visit.gateways > 1 else ''}"
                    self._say(f"{number + 1} of {count}: {visit.target.name}, {many}")
                    await self._visit(
                        visit, programs[visit.target.name], engines, directory / f"visit-{number}"
                    )

            lanes = [Engines(directory, number) for number in range(self._plan.lanes)]
            for engines in lanes:
                stack.callback(engines.stop)
            await asyncio.gather(*(lane(engines) for engines in lanes))

    async def _visit(self, visit: Visit, program: Installed | str, engines: Engines, directory: Path) -> None:
        target = visit.target
        rows = {w: self.row(target.name, "", w, visit.gateways) for w in self._plan.requests}
        if isinstance(program, str):
            for row in rows.values():
                row.problems.append(program)
            return
        for row in rows.values():
            row.version = program.version
        stage = _start(visit, program, engines.ports, directory)
        try:
            problem = await _up(stage, target.patience)
            if problem:
                for row in rows.values():
                    row.problems.append(problem)
                return
            for job in visit.jobs:
                await self._job(job, rows[job.workload], engines, stage)
        finally:
            await asyncio.gather(*(asyncio.to_thread(one.stop) for one in stage.running))
            shutil.rmtree(directory, ignore_errors=True)

    async def _job(self, job: Job, row: Row, engines: Engines, stage: Stage) -> None:
        workload = self._workloads.make(job.workload, job.seed, job.rate)
        place = row.samples if job.rate == 1.0 else row.ladder
        for _ in range(self._plan.tries):
            sample, problems = await _load(workload, job, engines, stage)
            if not sample.saturated:
                break
        place.append(sample)
        row.problems += problems
        row.problems += [f"ended while it was measured: {r.last_words()}" for r in stage.running if r.ended()]


def _start(visit: Visit, program: Installed, engines: Sequence[int], directory: Path) -> Stage:
    directory.mkdir()
    ports = free_ports(3 * visit.gateways)
    gateways = []
    for index in range(visit.gateways):
        folder = directory / f"gateway-{index}"
        folder.mkdir()
        port, first, second = ports[3 * index : 3 * index + 3]
        gateways.append(Gateway(port, (first, second), folder))
    site = Site(program.path, gateways, engines)
    cores = sorted(os.sched_getaffinity(0))
    target = visit.target
    running = [
        Running(target.name, target.command(site, index), cores, gateway.directory)
        for index, gateway in enumerate(gateways)
    ]
    return Stage(gateways, running)


async def _load(workload: Workload, job: Job, engines: Engines, stage: Stage) -> tuple[Sample, list[str]]:
    running = stage.running
    await engines.ask("begin")
    before, mine = sum(r.usage().cpu for r in running), _own_cpu()
    begun = time.monotonic()
    client = Client(workload, [gateway.port for gateway in stage.gateways], _LIMIT)
    await client.run()
    seconds = time.monotonic() - begun
    used, mine = sum(r.usage().cpu for r in running) - before, _own_cpu() - mine
    seen = await engines.ask("end")
    last = begun + max((one.start for one in client.answered), default=0.0)
    looks = [open_ for when, open_ in seen["looks"] if begun <= when <= last]
    queries = sum(engine["queries"] for engine in seen["engines"])
    hits = sum(engine["hits"] for engine in seen["engines"])
    sample = sample_of(
        client.answered,
        looks,
        hits / max(1, queries),
        GOALS[job.workload],
        late=max(quantile(client.late, 0.99), quantile(seen["late"], 0.99)),
        busy=max(mine, seen["cpu"]) / seconds,
        router=used / max(1, len(client.answered)),
        rate=job.rate,
        seed=job.seed,
    )
    return sample, problem_counts(client.answered)


def _own_cpu() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


async def _up(stage: Stage, patience: float) -> str:
    """Wait until every gateway answers and knows its engines; return what is wrong, "" when nothing is."""
    begun = time.monotonic()
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(headers=headers, timeout=5.0, trust_env=False) as http:
        for one, gateway in zip(stage.running, stage.gateways, strict=True):
            while not await _ready(http, gateway.port):
                if one.ended():
                    return f"ended at its start: {one.last_words()}"
                if time.monotonic() - begun > patience:
                    return f"gave no answer within {patience:.0f} s: {one.last_words()}"
                await asyncio.sleep(0.1)
    await asyncio.sleep(_SETTLE)
    return ""


async def _ready(http: httpx.AsyncClient, port: int) -> bool:
    url = f"http://127.0.0.1:{port}"
    try:
        health = await http.get(f"{url}/health")
        if health.status_code != 200:
            return False
        if re.match(r"^\{.*\"engines\":", health.text) and health.json()["engines"] < ENGINES:
            return False
        reply = await http.post(f"{url}/v1/completions", json=_QUESTION)
        return reply.status_code == 200 and "choices" in reply.json()
    except (httpx.HTTPError, ValueError):
        return False


def raise_limits() -> None:
    """Let this process and its children open as many files as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
