"""Two nodes on loopback do one batch after the other, each larger than the last, and every process's peak is read."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.cluster import ChaosError, Cluster
from benchmarks.chaos.network import Loopback
from benchmarks.chaos.questions import MODEL

MEGABYTE = 1_000_000
_URL = "/v1/completions"
_LOOK = 0.1  # s
_COPIES = 3.3  # times the input: it, and one on each node; and their answers
_PEAK = re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Peaks:
    """What a batch took. Memory is what was resident at most since the process began, in megabytes.

    Attributes:
        size: of the input, bytes.
        lines: of it.
        seconds: from the start of `shoal batch run` to its end.
        memory: by process: ``client``, ``owner``, ``other node``, ``gateway worker``.
    """

    size: int
    lines: int
    seconds: float
    memory: dict[str, float]


def write_input(path: Path, size: int, line: int) -> int:
    """Write an input of about `size` bytes in lines of about `line`, none of it held; return how many lines."""
    number = written = 0
    with path.open("wb") as file:
        while written < size:
            body = {"model": MODEL, "prompt": f"question {number}", "max_tokens": 1, "ignore_eos": True}
            request = {"custom_id": f"r{number}", "method": "POST", "url": _URL, "body": body}
            # What makes it long is a field that engines pass over: not their speed is measured.
            body["user"] = "x" * max(0, line - len(json.dumps(request)) - 13)
            written += file.write(json.dumps(request).encode() + b"\n")
            number += 1
    return number


async def measure(
    directory: Path, sizes: list[int], line: int, say: Callable[[str], None], in_flight: int | None = None
) -> list[Peaks]:
    """Return the peaks of batches of these sizes in bytes, the smallest first, done by the same nodes.

    Args:
        directory: for everything.
        sizes: of the inputs.
        line: bytes of a line.
        say: told what is going on.
        in_flight: requests that a node has open; None for what it chooses by itself.

    Raises:
        ChaosError: something went wrong; the message is for people.
    """
    need, free = _COPIES * sum(sizes), shutil.disk_usage(directory).free
    if need > free:
        raise ChaosError(f"this needs {need / 1e9:,.1f} GB of disk, {directory} has {free / 1e9:,.1f} GB")
    model = {"name": MODEL, "path": MODEL, "engine": "sim", "args": {"time-scale": 0}}
    settings = {"model": model} | ({"batch": {"max_in_flight": in_flight}} if in_flight else {})
    nodes = Cluster(directory, Loopback(2), settings)
    try:
        say("the nodes start")
        await nodes.start()
        return [await _one(nodes, directory, size, line, say) for size in sorted(sizes)]
    finally:
        await nodes.close()


async def _one(nodes: Cluster, directory: Path, size: int, line: int, say: Callable[[str], None]) -> Peaks:
    source, output = directory / "in.jsonl", directory / "out.jsonl"
    lines = await asyncio.to_thread(write_input, source, size, line)
    size = source.stat().st_size
    say(f"a batch of {size / 1e6:,.0f} MB in {lines:,} lines")
    host, port = nodes.addresses[0]
    command = [sys.executable, "-m", "shoal", "batch", "run", str(source), "-o", str(output)]
    began = time.monotonic()
    client = await asyncio.create_subprocess_exec(
        *command, "--url", f"http://{host}:{port}", stdout=asyncio.subprocess.DEVNULL
    )
    memory: dict[str, float] = {}
    try:
        ending = asyncio.create_task(client.wait())
        while not ending.done():
            _note(memory, nodes, client.pid)
            await asyncio.wait({ending}, timeout=_LOOK)
    finally:
        if client.returncode is None:
            client.kill()
    seconds = time.monotonic() - began
    with output.open("rb") as file:
        answered = sum(1 for _ in file)
    if client.returncode != 0 or answered != lines:
        raise ChaosError(
            f"shoal batch run ended with status {client.returncode}, {answered:,} of {lines:,} lines answered"
        )
    source.unlink()
    output.unlink()
    return Peaks(size, lines, seconds, memory)


def _note(memory: dict[str, float], nodes: Cluster, client: int) -> None:
    owner, other = nodes.node_process(0), nodes.node_process(1)
    workers = [c.pid for c in owner.children() if "shoal.gateway" in c.cmdline()]
    processes = {
        "client": [client],
        "owner": [owner.pid],
        "other node": [other.pid],
        "gateway worker": workers,
    }
    for name, pids in processes.items():
        for pid in pids:
            memory[name] = max(memory.get(name, 0.0), peak(pid))


def peak(pid: int) -> float:
    """Return the megabytes that a process has had resident at most, 0 if it has ended."""
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return 0.0
    return int(found[1]) * 1024 / MEGABYTE if found else 0.0
