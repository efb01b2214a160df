"""Asks an engine how it is for as long as it runs, and notes what the reconcile rules judge it by."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping

from shoal.config.schema import Engines as EngineSettings
from shoal.engine import diagnosis, logs
from shoal.engine.command import api_key
from shoal.engine.probe import Probe, ProbeError
from shoal.engine.process import EngineProcess
from shoal.engine.spec import EngineSpec
from shoal.node.certificates import Certificates
from shoal.node.managed import ManagedEngine
from shoal.node.reconcile import stalls_at

# While an engine loads it is asked more often than `probe_interval`: a ready engine should not wait to be found.
_STARTING_INTERVAL = 0.25
# The first token may take long: the engine compiles, or a busy CPU loads what it had put off.
_CANARY_TIMEOUT = 60.0
# An engine with requests is asked this many times within `stall_timeout`, so that its last progress is well known.
_LOOKS = 20
# A question is cut short when the engine's time is over, but this is left to the engine in any case. Seconds.
_LAST_QUESTION = 0.3
# Later than this, the event loop did not run: the process was stopped, or the machine slept. Seconds.
_ABSENT = 1.0


class EngineWatch:
    """Watches the engines of a node.

    Args:
        settings: the configuration's ``engines``.
        stall_timeout: seconds after which an engine that has requests and gets nothing done hangs.
        certificates: for connections to engines that speak TLS.
        in_flight: returns the requests that the cluster's gateways have open on an engine of this node.
        on_change: called when there may be something for the rules to decide.

    Attributes:
        specs: what should run, by engine id.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        stall_timeout: float,
        certificates: Certificates,
        in_flight: Callable[[str], int],
        on_change: Callable[[], None],
    ) -> None:
        self.specs: Mapping[str, EngineSpec] = {}
        self._settings = settings
        self._stall_timeout = stall_timeout
        self._certificates = certificates
        self._in_flight = in_flight
        self._on_change = on_change

    def probe(self, e: ManagedEngine, timeout: float | None = None) -> Probe:
        """Return a probe of the engine; `timeout` in seconds, by default the configured one.

        Raises:
            OSError: this node has no certificate to show it, see `Certificates.context`.
        """
        spec = self.specs.get(e.id)
        return self._certificates.probe(
            e.host,
            e.port,
            e.model,
            e.authority,
            api_key=api_key(spec, os.environ) if spec else None,
            timeout=timeout or self._settings.probe_timeout,
            health=e.health,
            any_program=e.any_program,
        )

    def requests(self, e: ManagedEngine) -> int:
        """Return the requests that are in the engine, by its own account or by that of the gateways.

        vLLM counts a request only when the first step it takes part in is over (seen with 0.32: during a prefill of
        16 s it said that it runs nothing), and one that hangs says what it said before.
        """
        return max(e.load.running + e.load.waiting, self._in_flight(e.id))

    async def watch(self, e: ManagedEngine, process: EngineProcess) -> None:
        """Ask the engine how it is for as long as it runs and nobody ends it for its failure."""
        async with self.probe(e) as probe, asyncio.TaskGroup() as questions:
            while not process.exited.done() and not e.ending:
                if e.ready:
                    await self._look(e, process, probe, questions)
                else:
                    await self.look_at_start(e, process, probe)
                await asyncio.to_thread(
                    logs.rotate, process.log, self._settings.log_max_size, self._settings.log_files
                )
                pause = self._pause(e)
                begun = time.monotonic()
                await asyncio.wait({process.exited}, timeout=pause)
                if (late := time.monotonic() - begun - pause) > _ABSENT:
                    e.unwatched(late)
            if e.canary is not None:
                e.canary.cancel()

    async def follow(self, e: ManagedEngine, process: EngineProcess) -> None:
        """Look after a part that answers nobody: its leader's node is who tells how the engine does."""
        e.detail = "follows"
        while not process.exited.done() and not e.ending:
            await asyncio.to_thread(
                logs.rotate, process.log, self._settings.log_max_size, self._settings.log_files
            )
            await asyncio.wait({process.exited}, timeout=self._settings.probe_interval)

    async def look_at_start(self, e: ManagedEngine, process: EngineProcess, probe: Probe) -> None:
        """Find out whether the engine is ready: /health answers, and so does the model when asked for one token."""
        try:
            await probe.health()
            e.answered = time.monotonic()
            models = await probe.models()
            # An adopted engine has proved itself long ago and may be busy.
            if not process.adopted:
                e.detail = "answers /health, asked for a first token"
                async with self.probe(e, _CANARY_TIMEOUT) as patient:
                    await patient.canary()
        except ProbeError:
            progress = await asyncio.to_thread(diagnosis.progress, process.log)
            if not e.ready:
                e.detail = progress
            return
        e.served = tuple(m.id for m in models)
        e.max_model_len = next((m.max_model_len for m in models), None)
        e.ready = True
        e.seen_well()
        await process.survey()
        self._on_change()

    def _due(self, e: ManagedEngine) -> float:
        """Return the seconds until the engine hangs if it has requests and gets nothing done; below 0 if it would."""
        return stalls_at(e.progressed, e.worked, self._stall_timeout) - time.monotonic()

    def _pause(self, e: ManagedEngine) -> float:
        if not e.ready:
            return _STARTING_INTERVAL
        pause = self._settings.probe_interval
        if self.requests(e):
            pause = min(pause, self._stall_timeout / _LOOKS)
        due = self._due(e)
        return min(pause, due) if due > 0 else pause

    async def _look(
        self, e: ManagedEngine, process: EngineProcess, probe: Probe, questions: asyncio.TaskGroup
    ) -> None:
        due = self._due(e)
        limit = self._settings.probe_timeout
        if due > 0:
            limit = min(limit, max(due, _LAST_QUESTION))
        begun = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                await probe.health(more=True)
                load = await probe.load()
        except (ProbeError, TimeoutError):
            if (late := time.monotonic() - begun - limit) > _ABSENT:
                e.unwatched(late)
                return
            await self._judge(e, process, silent=True)
            return
        moved = load.progress != e.load.progress
        e.load, e.said = load, probe.said
        if moved or not self.requests(e) or e.uncounted:
            e.seen_well()
            return
        await self._judge(e, process, silent=False)
        quiet = time.monotonic() - max(e.progressed, e.worked)
        asking = e.canary is not None and not e.canary.done()
        # Gateways also count what the engine is done with and a client is slow to take: only a token tells.
        if not load.running + load.waiting and quiet > self._stall_timeout / 2 and not asking:
            e.canary = questions.create_task(self._ask_for_a_token(e))

    async def _ask_for_a_token(self, e: ManagedEngine) -> None:
        async with self.probe(e, self._stall_timeout) as probe:
            with contextlib.suppress(ProbeError):
                await probe.canary()
                e.seen_well()

    async def _judge(self, e: ManagedEngine, process: EngineProcess, *, silent: bool) -> None:
        """Note what there is to see of an engine that gets nothing done; what follows is for the rules to say."""
        # Of a program that is not vLLM it is not known which of its processes computes.
        whole = silent or e.any_program
        computes = await asyncio.to_thread(e.activity.computes, process.record, silent=whole)
        now = time.monotonic()
        if computes:
            e.worked = now
        e.looked = now
        if not silent:
            e.answered = now
        if self.requests(e) and self._due(e) <= 0:
            self._on_change()
