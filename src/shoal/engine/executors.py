"""What starts the processes of an engine that spans nodes: how each node's command line comes to be.

vLLM calls this its distributed executor backend. An executor here is a small thing: from the command line of an engine
on one node it makes that of one node's part. Everything else (forming, watching, ending) is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shoal.engine import ray_member
from shoal.engine.spec import Part

RAY_MEMBER = Path(ray_member.__file__).resolve()


class Executor(Protocol):
    """Makes the command lines of the parts of an engine."""

    def command(self, words: Sequence[str], part: Part) -> list[str]:
        """Return the command line of a part.

        Args:
            words: the command line of the same engine on one node.
            part: which part.
        """
        ...

    def clean_up(self) -> None:
        """Remove what killed parts have left on this machine beside processes and shared memory."""
        ...


class Multiprocessing:
    """vLLM by itself (``--distributed-executor-backend mp``): the same command on all nodes, told which one it is.

    The ranks that follow serve no API (``--headless``). Data parallel ranks meet at a second port, which is to be
    another one for each generation, too.
    """

    def command(self, words: Sequence[str], part: Part) -> list[str]:
        """Return the command line of a part."""
        meet = ["--master-addr", part.host, "--master-port", str(part.port)]
        if part.rpc_port:
            meet += ["--data-parallel-address", part.host, "--data-parallel-rpc-port", str(part.rpc_port)]
        which = ["--nnodes", str(len(part.nodes)), "--node-rank", str(part.rank)]
        return [*words, *which, *meet, *(["--headless"] if part.follows else [])]

    def clean_up(self) -> None:
        """There is nothing."""


class Ray:
    """A Ray cluster for each generation, of the part's nodes alone (``--distributed-executor-backend ray``).

    Each part is a `ray_member` with its Ray node; the first one's runs the engine as well, which has Ray start what it
    needs on the others.
    """

    def command(self, words: Sequence[str], part: Part) -> list[str]:
        """Return the command line of a part; vLLM's interpreter, the first word, has to have Ray too."""
        member = [words[0], str(RAY_MEMBER), "--rank", str(part.rank), "--nodes", str(len(part.nodes))]
        member += ["--head", f"{part.host}:{part.port}", "--address", part.address]
        return member if part.follows else [*member, "--", *words, "--distributed-executor-backend", "ray"]

    def clean_up(self) -> None:
        """Remove the directories of Ray nodes that were killed."""
        ray_member.sweep()


EXECUTORS: Mapping[str, Executor] = {"mp": Multiprocessing(), "ray": Ray()}


def executor(name: str) -> Executor:
    """Return the executor of this name, which must be one of `EXECUTORS`."""
    return EXECUTORS[name]
