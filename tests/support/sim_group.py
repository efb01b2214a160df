"""Simulated engines that span several processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from support import sim
from support.ports import free_ports


@dataclass
class SimGroup:
    """A running group: its leader, which serves HTTP, and the others."""

    leader: sim.Sim
    followers: list[subprocess.Popen[bytes]]


def command(rank: int, nnodes: int, master_port: int) -> list[str]:
    """Return the arguments of one process of a group."""
    words = ["--nnodes", str(nnodes), "--node-rank", str(rank), "--master-port", str(master_port)]
    words += ["--tensor-parallel-size", str(nnodes)]
    return [*words, "--headless"] if rank else words


def follow(rank: int, nnodes: int, master_port: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a follower; do not wait for anything."""
    words = [sys.executable, "-m", "shoal.sim", *command(rank, nnodes, master_port), *arguments]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)


@contextlib.contextmanager
def group(*arguments: str, nnodes: int = 2, env: dict[str, str] | None = None) -> Iterator[SimGroup]:
    """Start a group and wait until it answers; end it with the block, and what was killed of it too."""
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        followers = []
        for rank in range(1, nnodes):
            process = follow(rank, nnodes, port, *arguments)
            stack.callback(process.wait)
            stack.callback(process.kill)
            followers.append(process)
        leader = sim.start(*command(0, nnodes, port), *arguments, env=env)
        stack.callback(leader.process.wait)
        stack.callback(leader.process.kill)
        stack.callback(leader.http.close)
        stack.callback(sim.end_helpers, leader.state())
        yield SimGroup(leader, followers)
