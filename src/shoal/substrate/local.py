"""A node process on this machine, from outside: starting it and giving it orders."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from shoal.cluster.signing import HEADER, Signer
from shoal.node.link import LinkError, checked_answer
from shoal.node.lock import running_process
from shoal.node.sockets import control_socket_of

MARK = "SHOAL_SUBSTRATE"
"""Environment variable of a node process that a substrate has started."""

_TIMEOUT = 5.0  # s


class NodeError(Exception):
    """The node process does not do what it was told; the text says why."""


def start(arguments: list[str], log: Path, environment: Mapping[str, str]) -> int:
    """Start `shoal serve` so that it outlives this process and is nobody's child: Ray kills those of its workers.

    Return its process id.

    Raises:
        NodeError: it cannot be started.
    """
    words = [sys.executable, "-m", "shoal.serve", *arguments]
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("ab") as out:
            shell = subprocess.run(
                ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=out,
                env=dict(environment),
                start_new_session=True,
                check=True,
            )
        pid = int(shell.stdout)
        _with_priority_of_ray(pid)
        return pid
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise NodeError(f"no node process can be started: {error}") from None


def _with_priority_of_ray(pid: int) -> None:
    """Give a process the priority of Ray itself, in time and in memory: its workers come last in both.

    Gateways and engines must not. Only root may give it back; others have to tell `ray start` (docs/ray.md).
    """
    ray = os.getppid()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, ray))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(Path(f"/proc/{ray}/oom_score_adj").read_text())


def is_node(pid: int, name: str) -> bool:
    """Return whether a process is the node of this name, be it that it just starts."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and name in process.cmdline()
    except psutil.Error:
        return False


def order(
    state_dir: Path, signer: Signer, path: str, arguments: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Give an order to the node with this state directory (a question without `arguments`); return its answer.

    Raises:
        NodeError: it does not run, does not answer, or refuses.
    """
    socket = control_socket_of(state_dir) if running_process(state_dir) is not None else None
    if socket is None:
        raise NodeError("it does not run")
    method, body = ("GET", b"") if arguments is None else ("POST", json.dumps(arguments).encode())
    signature = signer.sign(method, path, body)
    headers = {HEADER: signature, "content-type": "application/json"}
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, timeout=_TIMEOUT) as client:
            reply = client.request(method, f"http://node{path}", content=body, headers=headers)
        answer = checked_answer(signer, signature, reply)
    except (httpx.HTTPError, LinkError) as error:
        raise NodeError(str(error) or type(error).__name__) from None
    return dict(answer)


def signer_for(cluster: str, secret: str | None) -> Signer:
    """Return what signs orders to nodes of a cluster."""
    return Signer(cluster, secret, time.time)


def outer_environment() -> dict[str, str]:
    """Return the environment `ray start` was given on this machine, without what Ray added for itself.

    Ray hides GPUs from its workers and gives them one thread; a node process is to have neither.
    """
    try:
        parent = psutil.Process().parent()
        found = parent.environ() if parent is not None else dict(os.environ)
    except psutil.Error:
        found = dict(os.environ)
    return {name: value for name, value in found.items() if not name.startswith("RAY_") and "\n" not in value}
