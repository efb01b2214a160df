"""Routers and engines as processes: started on their cores, their whole trees accounted for, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PATIENCE = 10.0  # seconds to end after SIGTERM
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CPUCLOCK_SCHED = 2  # clock_getcpuclockid(3), as glibc makes the id of a process's clock
_WORKER = "shoal.gateway"  # in the command line of Shoal's gateway workers

libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Command:
    """How to start a program.

    Attributes:
        arguments: the program and its arguments.
        environment: variables beside the present ones.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """What a process tree has used or holds, or what one of its parts has.

    Attributes:
        cpu: user and system seconds of all processes and threads, those that have ended included.
        memory: resident bytes, summed over processes.
    """

    cpu: float
    memory: int


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without what would send loopback traffic to a proxy or lend routers our modules."""
    dropped = {"PYTHONPATH", *_PROXIES, *(name.upper() for name in _PROXIES)}
    return {name: value for name, value in environment.items() if name not in dropped}


def own_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its threads, to the nanosecond.

    What /proc says is rounded to ticks of 10 ms, which is 0.8 µs for each event of a short load.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error


def used(processes: Sequence[psutil.Process]) -> Usage:
    """Return what `processes` have used together.

    The kernel counts a process's threads into it, and a child that was waited for into its parent, so that nothing
    that ends between two readings of a whole tree is lost.
    """
    cpu, memory = 0.0, 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu += own_seconds(process.pid) + times.children_user + times.children_system
            memory += process.memory_info().rss
    return Usage(cpu, memory)


def _prepare(cores: Sequence[int]) -> Callable[[], None]:
    """Return what a child does before exec: go to its cores, and die with us."""

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


def spawn(command: Sequence[str], cores: Sequence[int], **more: object) -> subprocess.Popen[bytes]:
    """Start a program on `cores`; it does not outlive us. `more` goes to `subprocess.Popen`."""
    return subprocess.Popen(command, preexec_fn=_prepare(cores), **more)  # type: ignore[call-overload,no-any-return] # noqa: PLW1509 (no threads run)


class Running:
    """A started program and all its descendants.

    Args:
        name: for messages.
        command: what to run.
        cores: where it may run.
        directory: its working directory, where ``output.log`` is written.
    """

    def __init__(self, name: str, command: Command, cores: Sequence[int], directory: Path) -> None:
        self.name = name
        self._log = directory / "output.log"
        with self._log.open("wb") as log:
            self.process = spawn(
                command.arguments,
                cores,
                cwd=directory,
                env=clean(os.environ) | dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Return whether the program itself has ended."""
        return self.process.poll() is not None

    def last_words(self, count: int = 3) -> str:
        """Return the last lines the program wrote, as one."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return " / ".join([line for line in lines if line][-count:])[:500]

    def usage(self) -> Usage:
        """Return what the whole tree has used."""
        return used(self._tree())

    def worker_usage(self) -> Usage:
        """Return what Shoal's gateway workers, among the tree, have used."""
        workers = []
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                if _WORKER in process.cmdline():
                    workers.append(process)
        return used(workers)

    def stop(self) -> None:
        """End the program and everything it started."""
        tree = self._tree()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError):  # what an unexpected death of the first one has left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
