"""The engines of this node as they are: carries out the actions of the reconcile rules and watches what comes of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shoal.cluster.view import EngineReport, EngineState
from shoal.config.schema import Engines as EngineSettings
from shoal.engine import diagnosis, logs, record
from shoal.engine.command import api_key
from shoal.engine.machine import Machine
from shoal.engine.metrics import Load
from shoal.engine.ports import NoFreePortError, reserve
from shoal.engine.probe import Probe, ProbeError
from shoal.engine.process import EngineProcess, StartError, end_leftovers
from shoal.engine.record import Record
from shoal.engine.spec import EngineSpec
from shoal.node import reconcile
from shoal.node.addresses import base_url
from shoal.node.events import Events
from shoal.node.reconcile import Action, Actual

# While an engine loads it is asked more often than `probe_interval`: a ready engine should not wait to be found.
_STARTING_INTERVAL = 0.25
# For the end of an engine that was asked to go: vLLM needs a moment to leave its GPU and shared memory in order.
_STOP_GRACE = 10.0
# While an engine drains, so that its end is not put off by a whole probe interval.
_DRAINING_INTERVAL = 0.1
# The first token may take long: the engine compiles, or a busy CPU loads what it had put off.
_CANARY_TIMEOUT = 60.0
# The most of an error line that travels in a heartbeat, and how many lines.
_ERROR_LENGTH, _ERROR_LINES = 240, 3


@dataclass
class _Engine:
    """What is known of one engine. `busy`: it is being started or ended, so nothing else may begin."""

    id: str
    model: str
    kind: str
    state: EngineState = EngineState.WAITING
    since: float = field(default_factory=time.monotonic)
    host: str = ""
    port: int = 0
    fingerprint: str = ""
    process: EngineProcess | None = None
    busy: bool = False
    stopping: bool = False
    why: str = ""
    ready: bool = False
    answered: float | None = None
    exit: str | None = None
    failures: int = 0
    next_start: float | None = None
    restarts: int = -1
    served: tuple[str, ...] = ()
    max_model_len: int | None = None
    load: Load = field(default_factory=Load)
    detail: str = ""
    errors: tuple[str, ...] = ()

    def enter(self, state: EngineState, detail: str | None = None) -> None:
        """Change the state, now; `detail` replaces the sentence about it."""
        self.state = state
        self.since = time.monotonic()
        if detail is not None:
            self.detail = detail


class Engines:
    """All engines of this node.

    Args:
        node: the node's name.
        specs: what should run, by engine id; ports are chosen at each start.
        settings: the configuration's ``engines``.
        state_dir: the node's directory.
        machine: what engines on the CPU share.
        advertised: address other nodes reach the engines at.
        drain_timeout: seconds a stopped engine may take to finish what it runs.
        settle: seconds after which every gateway has heard that an engine drains.
        events: gets a sentence for each decision and each surprise.
        on_change: called when a state changes.
    """

    def __init__(
        self,
        *,
        node: str,
        specs: Mapping[str, EngineSpec],
        settings: EngineSettings,
        state_dir: Path,
        machine: Machine,
        advertised: str,
        drain_timeout: float,
        settle: float,
        events: Events,
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._specs = specs
        self._settings = settings
        self._state_dir = state_dir
        self._machine = machine
        self._advertised = advertised
        self._drain_timeout = drain_timeout
        self._settle = settle
        self._events = events
        self._on_change = on_change
        self._engines: dict[str, _Engine] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what the rest of the node sees

    def actual(self) -> dict[str, Actual]:
        """Return every engine as the reconcile rules want it."""
        return {
            e.id: Actual(
                id=e.id,
                state=e.state,
                since=e.since,
                fingerprint=e.fingerprint,
                running=e.busy or e.process is not None,
                ready=e.ready,
                answered=e.answered,
                exit=e.exit,
                failures=e.failures,
                next_start=e.next_start,
            )
            for e in self._engines.values()
        }

    def reports(self) -> tuple[EngineReport, ...]:
        """Return what the other nodes are told of the engines, in order of id."""
        now = time.monotonic()
        return tuple(
            EngineReport(
                id=e.id,
                model=e.model,
                kind=e.kind,
                state=e.state,
                host=self._advertised,
                port=e.port,
                instance=e.process.record.marker[:8] if e.process else "",
                served=e.served,
                max_model_len=e.max_model_len,
                running=e.load.running,
                waiting=e.load.waiting,
                kv_usage=e.load.kv_usage,
                restarts=max(e.restarts, 0),
                since=now - e.since,
                detail=e.detail,
                errors=e.errors,
            )
            for e in sorted(self._engines.values(), key=lambda e: e.id)
        )

    # -- adoption, at the start of the node process

    async def adopt(self) -> None:
        """Take over what an earlier node process left running; return when each one was asked how it is.

        Everything is adopted as it is. Whether it is still wanted, and wanted like that, the rules decide later.
        """
        records, problems = await asyncio.to_thread(record.read_all, self._state_dir)
        for problem in problems:
            self._events.add(problem, "warning")
        await asyncio.gather(*(self._adopt(r) for r in records))

    async def _adopt(self, rec: Record) -> None:
        adoption = await EngineProcess.adopt(rec, self._state_dir)
        if adoption.process is None:
            ended = await end_leftovers(rec, self._state_dir)
            left = f"; {ended}" if ended.killed or ended.left or ended.segments else ""
            self._events.add(f"engine {rec.id} is not adopted: {adoption.reason}{left}", "warning")
            return
        e = _Engine(rec.id, rec.model, rec.kind, host=rec.host, port=rec.port, fingerprint=rec.fingerprint)
        e.restarts = 0
        self._engines[rec.id] = e
        self._run(e, adoption.process)
        self._events.add(f"engine {rec.id} is adopted: process {adoption.process.pid} went on running")
        async with self._probe(e) as probe:
            await self._probe_starting(e, probe)

    # -- actions

    def want(self, specs: Mapping[str, EngineSpec]) -> None:
        """Start engines as these specs say from now on. What runs is not touched: the rules compare fingerprints."""
        self._specs = specs

    def apply(self, action: Action) -> None:
        """Carry out an action of the rules. What takes time goes on in the background."""
        level = (
            "warning"
            if isinstance(action, reconcile.Retry | reconcile.Kill | reconcile.MarkUnhealthy)
            else "info"
        )
        self._events.add(action.reason, level)
        e = self._engines.get(action.engine)
        match action:
            case reconcile.Start():
                self._start(e or self._new(action.engine))
            case reconcile.Retry(at=at, failures=failures) if e:
                e.exit, e.next_start, e.failures = None, at, failures
                e.enter(EngineState.WAITING, action.reason.partition(" ")[2].partition(" ")[2])
            case reconcile.Stop() if e:
                self._stop(e)
            case reconcile.Kill() if e and e.process:
                e.why = action.reason.partition(": it ")[2]
                # At once: the rules are asked again before the first task runs.
                e.enter(EngineState.STOPPING, e.why)
                self._spawn(self._terminate(e.process, 0))
            case reconcile.Forget() if e:
                del self._engines[e.id]
            case reconcile.MarkReady() if e:
                e.errors = ()
                e.enter(EngineState.READY, action.reason.partition(" is ")[2] or "answers again")
            case reconcile.MarkUnhealthy() if e:
                e.enter(EngineState.UNHEALTHY, action.reason.partition(": ")[2])
            case reconcile.Forgive() if e:
                e.failures = 0
        self._on_change()

    def _new(self, engine: str) -> _Engine:
        spec = self._specs[engine]
        return self._engines.setdefault(engine, _Engine(engine, spec.model, spec.kind))

    def _start(self, e: _Engine) -> None:
        e.busy, e.ready, e.answered, e.next_start, e.stopping, e.why = True, False, None, None, False, ""
        e.served, e.load, e.restarts = (), Load(), e.restarts + 1
        e.enter(EngineState.STARTING, "starting")
        self._spawn(self._launch(e, self._specs[e.id]))

    async def _launch(self, e: _Engine, spec: EngineSpec) -> None:
        reservation = None
        try:
            reservation = reserve(spec.host, *self._settings.ports, f"{self._node}/{e.id}")
            spec = msgspec.structs.replace(spec, port=reservation.port)
            process = await EngineProcess.start(
                spec, self._state_dir, reservation=reservation, machine=self._machine
            )
        except (StartError, NoFreePortError, OSError) as error:
            if reservation is not None:
                reservation.release()
            e.busy, e.exit = False, f"could not be started: {error}"
            self._on_change()
            return
        e.host, e.port, e.fingerprint = spec.host, spec.port, spec.fingerprint()
        self._run(e, process)
        e.busy = False
        self._on_change()

    def _run(self, e: _Engine, process: EngineProcess) -> None:
        """Begin to look after a process."""
        e.process = process
        if e.state is not EngineState.STARTING:
            e.enter(EngineState.STARTING, "adopted, asked whether it is ready")
        self._spawn(self._watch(e, process))
        self._spawn(self._bury(e, process))

    def _stop(self, e: _Engine) -> None:
        """Take an engine out of rotation at once, let it finish what it runs, then end it; nobody's failure.

        One that is just being started is only marked; the rules say it again when it has a process.
        """
        drains = e.process is not None and e.state in (EngineState.READY, EngineState.UNHEALTHY)
        if drains:
            e.enter(EngineState.DRAINING, "finishes what it runs")
        else:
            e.enter(EngineState.STOPPING, "stops")
        if e.process is not None and not e.stopping:
            e.stopping = True
            self._spawn(self._wind_down(e, e.process, drains))

    async def _wind_down(self, e: _Engine, process: EngineProcess, drains: bool) -> None:
        if drains:
            await self._drained(e, process)
            e.enter(EngineState.STOPPING, "stops")
            self._on_change()
        await self._terminate(process, _STOP_GRACE)

    async def _drained(self, e: _Engine, process: EngineProcess) -> None:
        """Return when the engine runs nothing more, or after `drain_timeout`."""
        end = time.monotonic() + self._drain_timeout
        # Until every gateway has heard of it, new requests may still come.
        await asyncio.wait({process.exited}, timeout=min(self._settle, self._drain_timeout))
        async with self._probe(e) as probe:
            while not process.exited.done() and time.monotonic() < end:
                try:
                    e.load = await probe.load()
                except ProbeError:
                    return
                if e.load.running + e.load.waiting == 0:
                    return
                await asyncio.sleep(_DRAINING_INTERVAL)

    async def _terminate(self, process: EngineProcess, grace: float) -> None:
        while (ended := await process.terminate(grace)).left:
            self._events.add(f"engine {process.record.id}: {ended}", "error")
            await asyncio.sleep(1)

    async def _bury(self, e: _Engine, process: EngineProcess) -> None:
        """Wait for the end of a process, end what it left behind, and note why it ended."""
        how = await process.exited
        e.ready = False
        if not e.stopping:
            e.enter(EngineState.STOPPING, e.why or str(how))
            self._on_change()
        await self._terminate(process, 0)
        e.process, e.port, e.load = None, 0, Load()
        if e.stopping:
            e.stopping = False
            e.enter(EngineState.STOPPED, "stopped")
        else:
            error = await asyncio.to_thread(diagnosis.last_error, process.log)
            # Who was killed from outside has nothing to say about it; who exits mostly has.
            tail = (
                [] if error or how.signal else await asyncio.to_thread(logs.tail, process.log, _ERROR_LINES)
            )
            lines = [error] if error else [line for line in tail if line.strip()]
            e.errors = tuple(line[:_ERROR_LENGTH] for line in lines)
            e.exit = (e.why or str(how)) + (f" ({error[:_ERROR_LENGTH]})" if error else "")
        self._on_change()

    async def stop_all(self) -> None:
        """Stop every engine gracefully; return when all are gone."""
        while any(e.busy for e in self._engines.values()):  # noqa: ASYNC110 - a start takes milliseconds
            await asyncio.sleep(_DRAINING_INTERVAL)
        for e in self._engines.values():
            if e.process is not None and not e.stopping:
                self._stop(e)
        self._on_change()
        while any(e.process for e in self._engines.values()):  # noqa: ASYNC110 - a process takes its time
            await asyncio.sleep(_DRAINING_INTERVAL)

    async def kill_all(self) -> None:
        """End every engine at once."""
        for e in self._engines.values():
            e.stopping = True
        processes = [e.process for e in self._engines.values() if e.process]
        await asyncio.gather(*(p.terminate(0) for p in processes))

    # -- watching

    def _probe(self, e: _Engine, timeout: float | None = None) -> Probe:
        spec = self._specs.get(e.id)
        return Probe(
            base_url(e.host, e.port),
            e.model,
            api_key=api_key(spec, os.environ) if spec else None,
            timeout=timeout or self._settings.probe_timeout,
        )

    async def _watch(self, e: _Engine, process: EngineProcess) -> None:
        """Ask the engine how it is for as long as it runs."""
        async with self._probe(e) as probe:
            while not process.exited.done():
                if e.ready:
                    await self._probe_ready(e, probe)
                else:
                    await self._probe_starting(e, probe)
                await asyncio.to_thread(
                    logs.rotate, process.log, self._settings.log_max_size, self._settings.log_files
                )
                pause = self._settings.probe_interval if e.ready else _STARTING_INTERVAL
                await asyncio.wait({process.exited}, timeout=pause)

    async def _probe_starting(self, e: _Engine, probe: Probe) -> None:
        """Ready means: /health answers, and so does the model when asked for one token."""
        process = e.process
        if process is None:
            return
        try:
            await probe.health()
            e.answered = time.monotonic()
            models = await probe.models()
            # An adopted engine has proved itself long ago and may be busy.
            if not process.adopted:
                e.detail = "answers /health, asked for a first token"
                async with self._probe(e, _CANARY_TIMEOUT) as patient:
                    await patient.canary()
        except ProbeError:
            progress = await asyncio.to_thread(diagnosis.progress, process.log)
            if e.state is EngineState.STARTING and not e.ready:
                e.detail = progress
            return
        e.served = tuple(m.id for m in models)
        e.max_model_len = next((m.max_model_len for m in models), None)
        e.ready = True
        await process.survey()
        self._on_change()

    async def _probe_ready(self, e: _Engine, probe: Probe) -> None:
        try:
            await probe.health()
            e.answered = time.monotonic()
            e.load = await probe.load()
        except ProbeError:
            return  # how long it has been silent is for the rules to judge

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.add(f"an internal task failed: {error!r}; please report this", "error")
