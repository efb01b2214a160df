"""Plain vLLM as a group of two nodes on this machine, without anybody who looks after it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.gateway.processes import clean, spawn
from benchmarks.gateway.run import free_ports
from shoal.engine import shm, tree
from shoal.engine.command import LAUNCHER, MARKER

MODEL = "tiny"
MAX_TOKENS = 3500  # of an answer: minutes, on CPUs
_VARIABLES = {
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Left:
    """What is left of a group.

    Attributes:
        leader: processes of the leader's node.
        follower: processes of the follower's node.
        memory: resident bytes of all of them.
        segments: files in /dev/shm that the group used.
    """

    leader: int
    follower: int
    memory: int
    segments: int


class Member:
    """One ``vllm serve``: a process, and those it starts.

    Args:
        words: its arguments.
        log: where its output goes.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        self._mark = secrets.token_hex(8)
        variables = clean(os.environ) | _VARIABLES | {MARKER: self._mark}
        with log.open("wb") as out:
            self.process = spawn(
                [sys.executable, str(LAUNCHER), "serve", *words],
                sorted(os.sched_getaffinity(0)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=variables,
            )
        found = tree.process(self.process.pid)
        assert found is not None
        self._ident = found.ident
        self._known: list[tree.Ident] = []

    def tree(self) -> list[tree.Process]:
        """Return its living processes; those seen before stay its own whatever becomes of their parents."""
        found = tree.members(self._ident, self._mark, self._known)
        self._known = [process.ident for process in found]
        return found

    def worker(self) -> int:
        """Return the number of its (first) worker process."""
        return next(p.pid for p in self.tree() if p.name.startswith("VLLM::Worker"))

    def end(self) -> None:
        """Kill everything of it."""
        tree.end(self.tree)
        self.process.wait()


class PlainGroup:
    """A leader with the HTTP server, and a follower; tensor parallel over gloo, as between CPUs of two machines.

    Args:
        model: directory of the model.
        directory: for logs.
    """

    def __init__(self, model: Path, directory: Path) -> None:
        port, master = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        common = [str(model), "--served-model-name", MODEL, "--dtype", "float32", "--enforce-eager"]
        common += ["--max-model-len", "4096", "--tensor-parallel-size", "2", "--nnodes", "2"]
        common += ["--master-addr", "127.0.0.1", "--master-port", str(master)]
        self.leader = Member(
            [*common, "--node-rank", "0", "--host", "127.0.0.1", "--port", str(port)],
            directory / "leader.log",
        )
        self.follower = Member([*common, "--node-rank", "1", "--headless"], directory / "follower.log")
        self._segments: set[shm.Segment] = set()

    def look(self) -> None:
        """Note which shared memory it uses, to be asked for later."""
        members = (self.leader, self.follower)
        self._segments |= shm.used_by(p.pid for member in members for p in member.tree())

    def left(self) -> Left:
        """Return what is there of it now."""
        leader, follower = self.leader.tree(), self.follower.tree()
        memory = 0
        for process in (*leader, *follower):
            with contextlib.suppress(psutil.Error):
                memory += psutil.Process(process.pid).memory_info().rss
        segments = self._segments & set(shm.segments())
        return Left(len(leader), len(follower), memory, len(segments))

    def last_words(self) -> str:
        """Return the ends of both logs."""
        return "\n".join(m.log.read_text(errors="replace")[-1500:] for m in (self.leader, self.follower))

    def end(self) -> None:
        """Kill everything of it and remove its shared memory."""
        self.look()
        self.leader.end()
        self.follower.end()
        shm.remove_unused(self._segments)
