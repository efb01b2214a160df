"""Engines this node does not own but must judge: those of members that went silent, and those somebody else runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from shoal.cluster.view import EngineReport, EngineState, MemberState, View, full_id
from shoal.config.schema import Address, Config
from shoal.engine.metrics import Load
from shoal.engine.probe import Probe, ProbeError
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.tables import External
from shoal.routing.table import EngineTarget

# A machine that lost its power does not answer at all: together with the detector's time this stays under 2 s.
_ORPHAN_TIMEOUT = 0.4
_ORPHAN_INTERVAL = 0.5


class Orphans:
    """Probes the engines of suspect and dead members: a node process may be gone and its engines serve on.

    Args:
        certificates: for connections to engines that speak TLS.
        on_change: called when an answer differs from the one before.
    """

    def __init__(self, certificates: Certificates, on_change: Callable[[], None]) -> None:
        self._certificates = certificates
        self._on_change = on_change
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.answers: dict[str, bool] = {}

    def update(self, view: View) -> None:
        """Begin to probe what has lost its owner, stop probing what has it back."""
        wanted = {
            full_id(member.name, engine.id): engine
            for member, engine in view.engines()
            if member.state in (MemberState.SUSPECT, MemberState.DEAD) and engine.state is EngineState.READY
        }
        for name in self._tasks.keys() - wanted.keys():
            self._tasks.pop(name).cancel()
            self.answers.pop(name, None)
        for name in wanted.keys() - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._watch(name, wanted[name]))

    def stop(self) -> None:
        """Stop probing."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _watch(self, name: str, engine: EngineReport) -> None:
        try:
            asked = self._certificates.probe(
                engine.host,
                engine.port,
                engine.model,
                engine.authority,
                timeout=_ORPHAN_TIMEOUT,
                health=engine.health,
            )
        except OSError:  # of an authority this node does not know: its gateway cannot use the engine either
            self.answers[name] = False
            self._on_change()
            return
        async with asked as probe:
            while True:
                try:
                    await probe.health()
                    answers = True
                except ProbeError:
                    answers = False
                if self.answers.get(name) is not answers:
                    self.answers[name] = answers
                    self._on_change()
                await asyncio.sleep(_ORPHAN_INTERVAL)


class Externals:
    """Watches the engines of models with ``engine: external``: balanced and watched, never started or stopped.

    Args:
        config: the configuration.
        slot: gives an engine's column of the in-flight map.
        events: gets a sentence when one comes or goes.
        on_change: called when one comes or goes.
    """

    def __init__(
        self, config: Config, slot: Callable[[str], int], events: Events, on_change: Callable[[], None]
    ) -> None:
        self._slot = slot
        self._settings = config.engines
        self._events = events
        self._on_change = on_change
        self._since: dict[str, float] = {}
        self._known: dict[str, External] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._addresses: dict[str, Address] = {}
        self._running = False
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Watch the engines of this configuration from now on; those that stay are not asked anew."""
        wanted = {
            f"external/{model.name}-{i}": (model.name, address)
            for model in config.models
            for i, address in enumerate(model.addresses)
        }
        for name in [n for n, a in self._addresses.items() if n not in wanted or wanted[n][1] != a]:
            if (task := self._tasks.pop(name, None)) is not None:
                task.cancel()
            del self._addresses[name], self._known[name], self._since[name]
        for name in [n for n in wanted if n not in self._addresses]:
            model, address = wanted[name]
            self._addresses[name] = address
            self._known[name] = _external(name, model, address, self._slot(name))
            self._since[name] = time.monotonic()
        if self._running:
            self.start()

    def start(self) -> None:
        """Begin to probe."""
        self._running = True
        for name in self._known.keys() - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._watch(name))

    def stop(self) -> None:
        """Stop probing."""
        self._running = False
        for task in self._tasks.values():
            task.cancel()

    def known(self) -> list[External]:
        """Return every external engine as it was last seen."""
        now = time.monotonic()
        return [
            msgspec.structs.replace(
                e, report=msgspec.structs.replace(e.report, since=now - self._since[name])
            )
            for name, e in self._known.items()
        ]

    async def _watch(self, name: str) -> None:
        address, model = self._addresses[name], self._known[name].report.model
        async with Probe(
            address.url, model, api_key=address.api_key, timeout=self._settings.probe_timeout
        ) as probe:
            while True:
                load, problem = await _ask(probe)
                if not problem and self._known[name].report.state is not EngineState.READY:
                    await self._identify(name, probe)
                self._note(name, load, problem)
                await asyncio.sleep(self._settings.probe_interval)

    async def _identify(self, name: str, probe: Probe) -> None:
        """Find out whether an engine that has just come is vLLM, which gives token ids, and how long its context is."""
        known = self._known[name]
        try:
            models = await probe.models()
        except ProbeError:
            return  # it serves all the same; a stream it breaks is continued by its text
        served = next((m for m in models if m.id == known.report.model), None)
        if served is None:
            return
        self._known[name] = External(
            report=msgspec.structs.replace(known.report, max_model_len=served.max_model_len),
            target=msgspec.structs.replace(known.target, token_ids=served.owned_by == "vllm"),
        )

    def _note(self, name: str, load: Load, problem: str) -> None:
        known = self._known[name]
        state = EngineState.UNHEALTHY if problem else EngineState.READY
        changed = known.report.state is not state
        report = msgspec.structs.replace(
            known.report,
            state=state,
            detail=problem or "answers",
            running=load.running,
            waiting=load.waiting,
            kv_usage=load.kv_usage,
        )
        self._known[name] = msgspec.structs.replace(known, report=report)
        if changed:
            self._since[name] = time.monotonic()
            if problem:
                self._events.add(f"external engine {name} gets no requests: it {problem}", "warning")
            else:
                self._events.add(f"external engine {name} answers and gets requests")
            self._on_change()


async def _ask(probe: Probe) -> tuple[Load, str]:
    """Return the load of an external engine, and what is wrong with it ("" if nothing).

    Servers that are not vLLM may have neither /health nor /metrics; that they list their models is enough.
    """
    try:
        await probe.health(more=True)
    except ProbeError as error:
        if error.status is None:
            return Load(), str(error)
        try:
            await probe.models()
        except ProbeError as second:
            return Load(), str(second)
    try:
        return await probe.load(), ""
    except ProbeError:
        return Load(), ""


def _external(name: str, model: str, address: Address, slot: int) -> External:
    target = EngineTarget(
        id=name,
        slot=slot,
        host=address.host,
        port=address.port,
        weight=address.weight,
        base_path=address.base_path,
        api_key=address.api_key,
        tls=address.tls,
        host_header=urlsplit(address.url).netloc,
    )
    report = EngineReport(
        id=name.partition("/")[2],
        model=model,
        kind="external",
        state=EngineState.STARTING,
        host=address.host,
        port=address.port,
        weight=address.weight,
        detail="not asked yet",
    )
    return External(report=report, target=target)
