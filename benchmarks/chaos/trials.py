"""Runs the trials of one fault on one cluster, under load."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.cluster import ChaosError, Cluster, wait_for
from benchmarks.chaos.faults.base import NODES, Detection, Fault, now, why_not
from benchmarks.chaos.load import Load
from benchmarks.chaos.network import UnavailableError, make
from benchmarks.chaos.results import Row, Trial, last_error, longest_pause, moved_on
from benchmarks.gateway.install import UnavailableError as NotInstalledError

_DETECT = 30.0  # seconds to notice, where nobody repairs it before
_RECOVER = 60.0  # seconds to full strength
_CALM = 3.0  # seconds at full strength before the next trial: failures are forgotten (recovery.healthy_after)
_EVERY = 0.02  # seconds between two looks for the detection
_SELDOM = 0.25  # the same where nothing has to be noticed


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        trials: of each fault.
        clients: open requests.
        network: ``auto``, ``namespaces`` or ``loopback``.
        spread: seconds over which clients begin, so that streams are in all stages at any moment.
    """

    trials: int
    clients: int
    network: str = "auto"
    spread: float = 3.0


QUICK = Plan(trials=3, clients=24)
FULL = Plan(trials=20, clients=50)

Say = Callable[[str], None]


@contextlib.asynccontextmanager
async def running(fault: type[Fault] | None, kind: str, cache: Path) -> AsyncIterator[Cluster]:
    """Start a cluster that `fault` can strike; everything is gone when the block ends.

    Raises:
        UnavailableError, NotInstalledError: the fault cannot be tried here.
        ChaosError: the cluster did not start.
    """
    with ExitStack() as stack:
        network, _ = make(NODES, kind)
        stack.callback(network.close)
        if fault is not None and (reason := why_not(fault, network)):
            raise UnavailableError(reason)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-chaos-")))
        cluster = Cluster(directory, network, dict(fault.settings) if fault else None)
        if fault is not None:
            fault.prepare(cluster, cache, stack)
        stack.callback(cluster.kill)
        await cluster.start()
        yield cluster
        await cluster.close()


async def run_fault(fault: type[Fault], plan: Plan, cache: Path, say: Say) -> Row:
    """Try one fault as often as `plan` says and return what was seen."""
    row = Row("shoal", fault.name)
    try:
        async with running(fault, plan.network, cache) as cluster:
            ways = [cluster.addresses[i] for i in fault.entries]
            load = Load(ways, plan.clients, fault.name, spread=plan.spread)
            load.start()
            try:
                await load.warm()
                for number in range(plan.trials):
                    say(f"{fault.name}: trial {number + 1} of {plan.trials}")
                    row.trials.append(await _trial(fault(cluster, number, load.requests), load))
            except ChaosError as error:
                row.problem(f"after {len(row.trials)} of {plan.trials} trials: {error}")
            finally:
                await load.abort()  # what is open has begun after the last fault was over
                row.count(load.requests)
    except (UnavailableError, NotInstalledError) as error:
        row.skipped = str(error)
    for trial in row.trials:
        for problem in trial.problems:
            row.problem(problem)
    return row


async def _trial(fault: Fault, load: Load) -> Trial:
    """Let a fault strike once, and wait until all is well and every answer that it may have touched has ended.

    Raises:
        ChaosError: full strength was not reached again, not even with a hand.
    """
    trial = Trial()
    await fault.begin()
    struck = now()
    await fault.strike()
    try:
        patience = fault.hold or _DETECT
        if fault.detection is not Detection.STREAMS:
            every = _EVERY if fault.detection is Detection.STATUS else _SELDOM
            trial.detection = await wait_for(fault.detected, patience, every, since=struck)
        if fault.hold is not None:
            await asyncio.sleep(max(0.0, struck + fault.hold - now()))
            origin = now()
            await fault.repair()
        else:
            origin = struck
        trial.recovery = await wait_for(fault.recovered, _RECOVER, since=origin)
    finally:
        await fault.repair()
    if trial.recovery is None:
        trial.problems.append(f"not at full strength within {_RECOVER:.0f} s by itself")
        if await wait_for(fault.cluster.full, _RECOVER) is None:
            raise ChaosError("full strength was not reached again, not even with a hand")
    if fault.detection is Detection.STATUS and trial.detection is None:
        trial.problems.append(f"not noticed within {patience:.0f} s")
    if trial.recovery is not None:
        trial.problems += fault.problems()
    calm = time.monotonic() + _CALM
    await load.settle()
    await asyncio.sleep(max(0.0, calm - time.monotonic()))
    if fault.detection is Detection.STREAMS:
        trial.detection = moved_on(load.requests, struck, now())
    trial.last_error = last_error(load.requests, struck, now())
    trial.pause = longest_pause(load.requests, struck, now())
    return trial
