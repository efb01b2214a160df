"""A whole run: get the programs, start engines and targets, measure, end everything."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import httpx
from rich.console import Console

import shoal
from benchmarks.gateway import machine
from benchmarks.gateway.install import Installed, Installer, UnavailableError, cache_folder, compiled
from benchmarks.gateway.load import API_KEY, Load
from benchmarks.gateway.machine import Placement
from benchmarks.gateway.measure import Bench, Plan, Subject
from benchmarks.gateway.peers import Kind, Site, Target
from benchmarks.gateway.processes import Command, Running
from benchmarks.gateway.results import WORKER, Row
from lib.progress import Steps

# Below those that the kernel gives to clients, and above those of Shoal's engines (`engines.ports`).
_PORTS = range(21000, 30000)
_TRIES = (
    3  # to start something: between looking for a port and listening on it, another program may have taken it
)
_QUESTION = {"model": "bench", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


class BenchError(Exception):
    """Nothing can be measured; the message is for people."""


@dataclass(frozen=True)
class Programs:
    """What runs: the two of our own, and the targets' by name."""

    engine: Path
    load: Path
    targets: dict[str, Installed]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one benchmark at a time into the block: two would measure each other."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another benchmark to end ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(targets: Sequence[Target], rows: dict[str, Row], cache: Path, log: TextIO) -> Programs:
    """Get everything; a target that cannot be had is noted in its row.

    Raises:
        BenchError: our own programs cannot be compiled.
    """
    installers: dict[Installer, str] = {}
    for target in targets:
        if target.installer is not None:
            installers.setdefault(target.installer, target.name.split()[0].rstrip(","))
    steps = Steps(1 + len(installers))
    with steps.step("fake engine and load generator"):
        try:
            engine, load = compiled("engine", cache, log), compiled("load", cache, log)
        except UnavailableError as error:
            raise BenchError(str(error)) from error
    found: dict[Installer, Installed | str] = {}
    for installer, name in installers.items():
        with steps.step(name) as step:
            try:
                found[installer] = installer(cache, log, step)
            except UnavailableError as error:
                found[installer] = str(error)
    programs = {}
    for target in targets:
        if target.installer is None:
            continue
        one = found[target.installer]
        if isinstance(one, str):
            rows[target.name].problem(one)
        else:
            programs[target.name] = one
            rows[target.name].version = one.version
    return Programs(engine, load, programs)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody uses, TCP or UDP."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise BenchError("there are not enough free ports.")


def answers(client: httpx.Client, port: int) -> bool:
    """Return whether a chat request is answered as an engine would."""
    try:
        reply = client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=_QUESTION)
        return reply.status_code == 200 and "choices" in reply.json()
    except (httpx.HTTPError, ValueError):
        return False


def wait_until_up(subject: Subject, client: httpx.Client, begun: float, patience: float) -> bool:
    """Wait until a target answers or ends; note why when it does neither, `patience` seconds after `begun`."""
    while subject.running is None or not subject.running.ended():
        if answers(client, subject.port):
            return True
        if time.monotonic() - begun > patience:
            said = subject.running.last_words() if subject.running else ""
            subject.row.problem(f"gave no answer within {patience:.0f} s: {said}")
            return False
        time.sleep(0.1)
    return False


def start_engines(
    program: Path, placement: Placement, directory: Path, stack: contextlib.ExitStack
) -> list[int]:
    """Start the fake engines; return their ports.

    Raises:
        BenchError: one does not listen.
    """
    return [start_engine(program, cores, directory, stack) for cores in placement.engines]


def start_engine(program: Path, cores: Sequence[int], directory: Path, stack: contextlib.ExitStack) -> int:
    """Start one and return its port.

    Raises:
        BenchError: it does not listen, whichever port it gets.
    """
    for _ in range(_TRIES):
        (port,) = free_ports(1)
        folder = directory / f"engine-{port}"
        folder.mkdir()
        running = Running("engine", Command([str(program), str(port)]), cores, folder)
        stack.callback(running.stop)
        with httpx.Client(timeout=5, trust_env=False) as client:
            while not running.ended():
                if answers(client, port):
                    return port
                time.sleep(0.02)
    raise BenchError(f"the fake engine does not start: {running.last_words()}")


@dataclass(frozen=True)
class Stage:
    """What targets are started with.

    Attributes:
        programs: what runs.
        placement: on which cores.
        engines: ports of the fake engines.
        directory: for files.
        stack: ends what is started.
    """

    programs: Programs
    placement: Placement
    engines: Sequence[int]
    directory: Path
    stack: contextlib.ExitStack

    def start(self, target: Target, row: Row, ports: tuple[int, int]) -> Subject | None:
        """Start a target, None if there is nothing to start; it answers later."""
        load = Load(self.programs.load, self.placement.load)
        if target.command is None:  # no router: the load generator has its core
            return Subject(row, self.engines[0], None, Load(self.programs.load, self.placement.router))
        cores = self.placement.pair if target.pair else self.placement.router
        if target.name not in self.programs.targets or not cores:
            return None
        folder = Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", target.name) + "-", dir=self.directory))
        site = Site(self.programs.targets[target.name].path, folder, *ports, self.engines)
        running = Running(target.name, target.command(site), cores, folder)
        self.stack.callback(running.stop)
        return Subject(row, ports[0], running, load)


def start_targets(targets: Sequence[Target], rows: dict[str, Row], stage: Stage) -> list[Subject]:
    """Start all targets at once and return those that answer, in order.

    One that ends before it has answered is started again, on other ports.
    """
    up: dict[str, Subject] = {}
    missing = list(targets)
    authorization = {"authorization": f"Bearer {API_KEY}"}
    with httpx.Client(headers=authorization, timeout=5, trust_env=False) as client:
        for left in reversed(range(_TRIES)):
            begun = time.monotonic()
            ports = iter(free_ports(2 * len(missing)))
            started = [(t, stage.start(t, rows[t.name], (next(ports), next(ports)))) for t in missing]
            missing = []
            for target, subject in started:
                if subject is None:
                    continue
                subject.worker = rows[WORKER] if target.kind is Kind.SHOAL else None
                if wait_until_up(subject, client, begun, target.patience):
                    up[target.name] = subject
                elif subject.running is not None and subject.running.ended():
                    missing.append(target)
                    if not left:
                        subject.gone()  # notes it
            if not missing:
                break
    return [up[target.name] for target in targets if target.name in up]


def run(targets: Sequence[Target], plan: Plan, console: Console) -> tuple[list[Row], dict[str, Any]]:
    """Measure `targets` by `plan`; return the results and the document about them.

    Raises:
        BenchError: nothing can be measured.
    """
    rows = {target.name: Row(target.name, target.kind) for target in targets}
    if any(target.kind is Kind.SHOAL for target in targets):
        rows[WORKER] = Row(WORKER, Kind.PART, shoal.__version__)
    cache = cache_folder()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # routers inherit it
    placement = machine.place(sorted(os.sched_getaffinity(0)))
    document = {
        "shoal": shoal.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe() | {"placement": placement.sentence},
        "repeats": plan.repeats,
        "slices": plan.slices,
    }
    with alone(cache), contextlib.ExitStack() as stack:
        with (cache / "install.log").open("a") as log:
            programs = install(targets, rows, cache, log)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        status = stack.enter_context(Progress(console))
        status.say("starting everything")
        ports = start_engines(programs.engine, placement, directory, stack)
        subjects = start_targets(targets, rows, Stage(programs, placement, ports, directory, stack))
        bench = Bench(plan, directory, status.say)
        bench.run(subjects)
        status.say("ending everything")
    document["others_busy_cores"] = round(statistics.fmean(bench.others), 3) if bench.others else 0.0
    return [rows[name] for name in _order(rows)], document


def _order(rows: dict[str, Row]) -> list[str]:
    """Return the names of the rows with Shoal's parts at the end."""
    return [
        *(n for n in rows if rows[n].kind is not Kind.PART),
        *(n for n in rows if rows[n].kind is Kind.PART),
    ]


class Progress:
    """Says what is going on: one line redrawn on a terminal, a line for each load elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """Show `text`, what is behind its colon only on a terminal."""
        if self._status is not None:
            self._status.update(text)
            return
        head = text.partition(":")[0]
        if head != self._last:
            self._console.print(f"  {head}", highlight=False)
        self._last = head
