"""The engines of this node as they are: carries out the actions of the reconcile rules and watches what comes of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shoal.cluster.view import EngineReport, EngineState
from shoal.config.schema import Engines as EngineSettings
from shoal.engine import diagnosis, logs, record, stacks
from shoal.engine.capacity import capacity
from shoal.engine.gpu import Gpu
from shoal.engine.lifeline import listening
from shoal.engine.machine import Machine
from shoal.engine.metrics import Load
from shoal.engine.ports import NoFreePortError, reserve
from shoal.engine.probe import ProbeError
from shoal.engine.process import Adoption, EngineProcess, end_leftovers
from shoal.engine.record import Record
from shoal.engine.spawn import StartError
from shoal.engine.spec import EngineSpec, Part
from shoal.node import reconcile
from shoal.node.broken import watch_broken
from shoal.node.certificates import Certificates
from shoal.node.engine_watch import EngineWatch
from shoal.node.errors import NotNowError
from shoal.node.events import Events
from shoal.node.managed import ManagedEngine
from shoal.node.reconcile import Action, Actual

# For the end of an engine that was asked to go: vLLM needs a moment to leave its GPU and shared memory in order.
_STOP_GRACE = 10.0
# While an engine drains, so that its end is not put off by a whole probe interval.
_DRAINING_INTERVAL = 0.1
# The most of an error line that travels in a heartbeat, and how many lines.
_ERROR_LENGTH, _ERROR_LINES = 240, 3

# An engine that was told to go before it had a process has only its state to show for it.
_ENDING = (EngineState.DRAINING, EngineState.STOPPING)


class Engines:
    """All engines of this node.

    Args:
        node: the node's name.
        specs: what should run, by engine id; ports are chosen at each start.
        settings: the configuration's ``engines``.
        state_dir: the node's directory.
        machine: what engines on the CPU share.
        gpus: GPUs of this machine.
        advertised: address other nodes reach the engines at.
        drain_timeout: seconds a stopped engine may take to finish what it runs.
        settle: seconds after which every gateway has heard that an engine drains.
        stall_timeout: seconds after which an engine that has requests and gets nothing done hangs.
        certificates: for connections to engines that speak TLS.
        in_flight: returns the requests that the cluster's gateways have open on an engine, by its id.
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
        stall_timeout: float,
        certificates: Certificates,
        in_flight: Callable[[str], int],
        events: Events,
        on_change: Callable[[], None],
        gpus: Sequence[Gpu] = (),
    ) -> None:
        self._node = node
        self._gpus = gpus
        self._capacities: dict[str, int] = {}
        self._specs: Mapping[str, EngineSpec] = {}
        self._engines: dict[str, ManagedEngine] = {}
        self._settings = settings
        self._state_dir = state_dir
        self._machine = machine
        self._advertised = advertised
        self._drain_timeout = drain_timeout
        self._settle = settle
        self._events = events
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()
        self._certificates = certificates
        self._watch = EngineWatch(
            settings,
            stall_timeout=stall_timeout,
            certificates=certificates,
            in_flight=in_flight,
            on_change=on_change,
        )
        self.want(specs)

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
                looked=e.looked,
                requests=self._watch.requests(e),
                progressed=e.progressed,
                worked=e.worked,
                ending=e.ending or e.stopping or e.state in _ENDING,
                away=e.away,
                exit=e.exit,
                failures=e.failures,
                next_start=e.next_start,
                generation=e.part.generation if e.part else 0,
                follows=e.follows,
                broken=e.broken,
                over=e.over,
            )
            for e in self._engines.values()
        }

    def parts(self) -> dict[str, tuple[Part, int]]:
        """Return of each part of an engine across nodes that runs or is being started: which, and its lifeline."""
        running = (e for e in self._engines.values() if e.busy or e.process is not None)
        return {e.id: (e.part, e.lifeline) for e in running if e.part is not None}

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of what runs, by engine id."""
        return {e.id: e.fingerprint for e in self._engines.values()}

    def reports(self) -> tuple[EngineReport, ...]:
        """Return what the other nodes are told of the engines that answer requests, in order of id."""
        now = time.monotonic()
        return tuple(
            EngineReport(
                id=e.id,
                model=e.model,
                kind=e.kind,
                state=e.state,
                host=self._advertised,
                port=e.port,
                authority=e.authority,
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
                capacity=self._capacities.get(e.id, 0),
                health=e.health,
            )
            for e in sorted(self._engines.values(), key=lambda e: e.id)
            if not e.follows
        )

    def said(self) -> dict[str, str]:
        """Return what each engine said under ``/metrics`` when it was last asked, by id."""
        return {e.id: e.said for e in self._engines.values()}

    def loads(self) -> dict[str, Load]:
        """Return what each engine said of its load when it was last asked, by its id and start."""
        return {
            f"{e.id} {e.process.record.marker}": e.load
            for e in self._engines.values()
            if e.process is not None and not e.follows and e.load.counted
        }

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
        try:
            self._certificates.context(rec.authority)
        except OSError:
            adoption = Adoption(None, "the certificate that its clients need is gone")
        else:
            adoption = await EngineProcess.adopt(rec, self._state_dir)
        if adoption.process is None:
            ended = await end_leftovers(rec, self._state_dir)
            left = f"; {ended}" if ended.killed or ended.left or ended.segments else ""
            self._events.add(f"engine {rec.id} is not adopted: {adoption.reason}{left}", "warning")
            return
        e = ManagedEngine(
            rec.id,
            rec.model,
            rec.kind,
            host=rec.host,
            port=rec.port,
            fingerprint=rec.fingerprint,
            authority=rec.authority,
            part=rec.part,
            lifeline=rec.lifeline,
            health=rec.health,
        )
        e.restarts = 0
        self._engines[rec.id] = e
        self._run(e, adoption.process)
        self._events.add(f"engine {rec.id} is adopted: process {adoption.process.pid} went on running")
        if not e.follows:
            async with self._watch.probe(e) as probe:
                await self._watch.look_at_start(e, adoption.process, probe)

    # -- actions

    def want(self, specs: Mapping[str, EngineSpec]) -> None:
        """Start engines as these specs say from now on. What runs is not touched: the rules compare fingerprints."""
        if specs == self._specs:
            return
        self._specs = self._watch.specs = specs
        for e in self._engines.values():
            # That something else failed there is no reason to wait with this.
            if e.process is None and e.id in specs and specs[e.id].fingerprint() != e.fingerprint:
                e.failures, e.next_start = 0, None
        self._capacities |= {spec.id: capacity(spec, self._gpus) for spec in specs.values()}

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
                e.away = True
                self._stop(e)
            case reconcile.Kill(hung=hung) if e and e.process:
                e.ending, e.why = True, action.reason.partition(": it ")[2]
                e.over = e.why
                # At once: the rules are asked again before the first task runs.
                e.enter(EngineState.UNHEALTHY if hung else EngineState.STOPPING, e.why)
                self._spawn(self._kill(e.process, hung))
            case reconcile.Kill() if e:
                e.enter(EngineState.STOPPING)  # it is just being started; the rules say it again
            case reconcile.LayDown() if e:
                e.exit = None
                e.enter(EngineState.WAITING, action.reason.partition(" ")[2].partition(" ")[2])
            case reconcile.Forget() if e:
                del self._engines[e.id]
            case reconcile.MarkReady() if e:
                e.errors, e.away = (), False
                e.enter(EngineState.READY, action.reason.partition(" is ")[2] or "answers again")
            case reconcile.MarkUnhealthy() if e:
                e.enter(EngineState.UNHEALTHY, action.reason.partition(": ")[2])
            case reconcile.Forgive() if e:
                e.failures = 0
        self._on_change()

    def restart(self, engine: str) -> None:
        """Restart an engine because somebody wants it: it finishes what it runs, ends, and is started by the rules.

        One that waits for its next start does not wait any longer.

        Raises:
            NotNowError: there is none, or it is about to end already.
        """
        e = self._engines.get(engine)
        if e is None or e.follows:
            raise NotNowError(f"node {self._node} has no engine {engine} that can be restarted", 404)
        if e.process is not None and not (e.stopping or e.ending or e.busy):
            self.apply(
                reconcile.Stop(
                    engine=engine, reason=f"engine {engine} is restarted: an operator asked for it"
                )
            )
        elif e.state is EngineState.WAITING and e.next_start is not None:
            e.next_start = None
            self._events.add(f"engine {engine} starts at once: an operator asked for it")
            self._on_change()
        else:
            raise NotNowError(f"engine {engine} is {e.state} just now: {e.detail or 'try again later'}")

    def _new(self, engine: str) -> ManagedEngine:
        spec = self._specs[engine]
        return self._engines.setdefault(engine, ManagedEngine(engine, spec.model, spec.kind))

    def _start(self, e: ManagedEngine) -> None:
        spec = self._specs[e.id]
        e.model, e.kind, e.fingerprint = spec.model, spec.kind, spec.fingerprint()
        e.busy, e.ready, e.answered, e.looked, e.next_start = True, False, None, None, None
        e.stopping, e.ending, e.why, e.broken, e.over = False, False, "", None, None
        e.part, e.lifeline = spec.part, 0
        e.served, e.load, e.said, e.restarts = (), Load(), "", e.restarts + 1
        e.enter(EngineState.STARTING, "starting")
        self._spawn(self._launch(e, spec))

    async def _launch(self, e: ManagedEngine, spec: EngineSpec) -> None:
        reservation = lifeline = None
        try:
            reservation = reserve(spec.host, *self._settings.ports, f"{self._node}/{e.id}")
            spec = msgspec.structs.replace(spec, port=reservation.port)
            if spec.part is not None:
                lifeline = self._lifeline(e, spec)
                # At once: a node that is told that the part runs, and not of its lifeline, would take it for dead as
                # soon as this node process is.
                e.host, e.lifeline = spec.host, lifeline.getsockname()[1]
                self._on_change()
            process = await EngineProcess.start(
                spec, self._state_dir, reservation=reservation, machine=self._machine, lifeline=lifeline
            )
        except (StartError, NoFreePortError, OSError) as error:
            if reservation is not None:
                reservation.release()
            e.busy, e.exit = False, f"could not be started: {error}"
            self._on_change()
            return
        e.host, e.port = spec.host, spec.port
        e.authority, e.lifeline = process.record.authority, process.record.lifeline
        e.health = spec.health
        self._run(e, process)
        e.busy = False
        self._on_change()

    def _lifeline(self, e: ManagedEngine, spec: EngineSpec) -> socket.socket:
        """Return the lifeline of a part, on a port of its own."""
        with reserve(spec.host, *self._settings.ports, f"{self._node}/{e.id}/lifeline") as held:
            return listening(spec.host, held.port)

    def _run(self, e: ManagedEngine, process: EngineProcess) -> None:
        """Begin to look after a process."""
        e.process = process
        if e.state is not EngineState.STARTING:
            e.enter(EngineState.STARTING, "adopted, asked whether it is ready")
        self._spawn(self._watch.follow(e, process) if e.follows else self._watch.watch(e, process))
        if e.part is not None:
            self._spawn(watch_broken(e, process, self._on_change))
        self._spawn(self._bury(e, process))

    def _stop(self, e: ManagedEngine) -> None:
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

    async def _wind_down(self, e: ManagedEngine, process: EngineProcess, drains: bool) -> None:
        if drains:
            await self._drained(e, process)
            e.enter(EngineState.STOPPING, "stops")
            self._on_change()
        await self._terminate(process, _STOP_GRACE)

    async def _drained(self, e: ManagedEngine, process: EngineProcess) -> None:
        """Return when the engine runs nothing more, or after `drain_timeout`."""
        end = time.monotonic() + self._drain_timeout
        # Until every gateway has heard of it, new requests may still come.
        await asyncio.wait({process.exited}, timeout=min(self._settle, self._drain_timeout))
        async with self._watch.probe(e) as probe:
            while not process.exited.done() and time.monotonic() < end:
                try:
                    e.load = await probe.load()
                except ProbeError:
                    return
                open_ = self._watch.requests(e) if e.uncounted else e.load.running + e.load.waiting
                if open_ == 0:
                    return
                await asyncio.sleep(_DRAINING_INTERVAL)

    async def _kill(self, process: EngineProcess, hung: bool) -> None:
        """End an engine that has failed; what one that hangs is at goes into its log before."""
        if hung:
            await stacks.dump(process.record)
        await self._terminate(process, 0)

    async def _terminate(self, process: EngineProcess, grace: float) -> None:
        while (ended := await process.terminate(grace)).left:
            self._events.add(f"engine {process.record.id}: {ended}", "error")
            await asyncio.sleep(1)

    async def _bury(self, e: ManagedEngine, process: EngineProcess) -> None:
        """Wait for the end of a process, end what it left behind, and note why it ended."""
        how = await process.exited
        e.ready = False
        if not e.stopping:
            e.over = e.why or str(how)
            e.enter(EngineState.STOPPING, e.over)
            self._on_change()
        await self._terminate(process, 0)
        e.process, e.port, e.load, e.lifeline, e.over = None, 0, Load(), 0, None
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.add(f"an internal task failed: {error!r}; please report this", "error")
