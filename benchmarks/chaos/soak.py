"""Random faults for a while under load, with an eye on the memory of every Shoal process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.cluster import ChaosError, Cluster, wait_for
from benchmarks.chaos.faults.base import NODES, OTHERS, Fault
from benchmarks.chaos.faults.engines import EngineCoreDead, EngineHung, EngineKilled
from benchmarks.chaos.faults.nodes import NodeKilled
from benchmarks.chaos.load import Load
from benchmarks.chaos.results import Row
from benchmarks.chaos.trials import running

FAULTS: tuple[type[Fault], ...] = (EngineKilled, EngineHung, EngineCoreDead, NodeKilled)
CLIENTS = 50
_WARM = 20.0  # seconds before the first look at the memory: pools and caches are filled by then
_CALM = (1.0, 6.0)  # seconds between two faults
_RECOVER = 60.0
_GROWTH = 1.10  # times the memory at the first look that still counts as flat
_MIB = 1 << 20


@dataclass
class Memory:
    """Resident MiB of one process, at the start, in the middle and at the end.

    Attributes:
        process: what it is.
        pids: at each look; another pid is another process.
        mib: at each look.
    """

    process: str
    pids: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @property
    def stayed(self) -> bool:
        """Whether it was one and the same process."""
        return len(set(self.pids)) == 1

    @property
    def flat(self) -> bool:
        """Whether it did not grow, as far as one process can be compared with itself."""
        return not self.stayed or self.mib[-1] <= self.mib[0] * _GROWTH


@dataclass
class Soak:
    """What was seen.

    Attributes:
        seconds: how long it took.
        row: requests, and a trial for each fault, without times but the recovery.
        faults: how often each one struck.
        memory: of every Shoal process.
    """

    seconds: float
    row: Row
    faults: dict[str, int]
    memory: list[Memory]

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self)


async def soak(seconds: float, kind: str, cache: Path, say: Callable[[str], None]) -> Soak:
    """Let random faults strike for `seconds` at `CLIENTS` concurrent requests.

    Nodes are killed at the last one only and load enters through the others, whose processes live all the time.
    """
    row = Row("shoal", "random faults")
    struck = {fault.name: 0 for fault in FAULTS}
    memory: dict[str, Memory] = {}
    begun = time.monotonic()
    async with running(None, kind, cache) as cluster:
        load = Load([cluster.addresses[i] for i in OTHERS], CLIENTS, f"soak {random.random()}")
        load.start()
        try:
            await load.warm()
            await asyncio.sleep(min(_WARM, seconds / 10))
            begun = time.monotonic()
            await _look(cluster, memory)
            looked = False
            while (passed := time.monotonic() - begun) < seconds:
                if not looked and passed > seconds / 2:
                    looked = True
                    await _look(cluster, memory)
                fault = random.choice(FAULTS)(cluster, random.randrange(NODES), load.requests)
                say(f"{fault.name}: after {passed:.0f} of {seconds:.0f} s, {len(load.requests)} requests")
                struck[fault.name] += 1
                if not await _strike(fault, row):
                    break
                await asyncio.sleep(random.uniform(*_CALM))
            if not looked:
                await _look(cluster, memory)
            await load.stop()
            await _look(cluster, memory)
        finally:
            await load.abort()
            row.count(load.requests)
    return Soak(time.monotonic() - begun, row, struck, list(memory.values()))


async def _strike(fault: Fault, row: Row) -> bool:
    """Let one fault strike and wait for full strength; return whether it was reached."""
    try:
        await fault.begin()
        await fault.strike()
        if fault.hold is not None:
            await asyncio.sleep(fault.hold)
            await fault.repair()
        if await wait_for(fault.recovered, _RECOVER) is None:
            row.problem(f"{fault.name}: not at full strength within {_RECOVER:.0f} s by itself")
        else:
            for problem in fault.problems():
                row.problem(f"{fault.name}: {problem}")
    except ChaosError as error:
        row.problem(f"{fault.name}: {error}")
    finally:
        await fault.repair()
    if await wait_for(fault.cluster.full, _RECOVER) is None:
        row.problem("full strength was not reached again, not even with a hand: stopped")
        return False
    return True


async def _look(cluster: Cluster, memory: dict[str, Memory]) -> None:
    """Note the memory of every node process, gateway worker and engine."""
    await wait_for(cluster.full, _RECOVER)
    for index in range(NODES):
        status = await cluster.status(index)
        pids = {f"node {index}, node process": cluster.node_process(index).pid}
        for number, worker in enumerate(status.get("workers", [])):
            pids[f"node {index}, gateway worker {number}"] = worker["pid"]
        with contextlib.suppress(ChaosError):
            pids[f"node {index}, engine (simulated)"] = cluster.engine(index).pid
        for process, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                one = memory.setdefault(process, Memory(process))
                one.mib.append(psutil.Process(pid).memory_info().rss / _MIB)
                one.pids.append(pid)


def lines(result: Soak) -> list[str]:
    """Return the result as lines of Markdown that are legible as they are."""
    row = result.row
    struck = ", ".join(f"{count} x {name}" for name, count in result.faults.items())
    bad = f"{row.failed} failed, {row.broken} broken streams, {row.wrong} with wrong bytes"
    found = [f"{result.seconds:.0f} s at {CLIENTS} concurrent requests: {struck}.", ""]
    found += [f"{row.requests:,} requests: {bad}.", ""]
    found += ["| process | MiB at the start | in the middle | at the end | |", "|---|---:|---:|---:|---|"]
    for one in result.memory:
        sizes = " | ".join(f"{size:.1f}" for size in one.mib)
        verdict = "replaced meanwhile" if not one.stayed else "flat" if one.flat else "**grew**"
        found.append(f"| {one.process} | {sizes} | {verdict} |")
    remarks = [*row.problems, *(f"{count} x {reason}" for reason, count in row.reasons.items())]
    return [*found, "", *(f"- {remark}" for remark in remarks)]
