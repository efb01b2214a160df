"""The node process: everything a node consists of, wired together, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from shoal import __version__
from shoal.cluster.endpoint import BindError
from shoal.cluster.identity import IdentityInUse
from shoal.cluster.membership import Membership
from shoal.cluster.pki import Authority
from shoal.cluster.view import MemberState, NodeReport, View, Waiting, full_id, gateways_waiting
from shoal.cluster.wire import Traffic
from shoal.config import Config, ConfigError, Node
from shoal.config.rules import beyond_loopback
from shoal.engine.gpu import list_gpus, visible
from shoal.engine.machine import this_machine
from shoal.engine.spec import Tls
from shoal.gateway.counters import SLOTS
from shoal.gateway.messages import EngineFault, KeyUsage, WorkerSettings
from shoal.node import ports, queues, tables
from shoal.node.addresses import is_any
from shoal.node.agreed_store import AgreedStore, begin_with, with_joined
from shoal.node.allocator import return_memory
from shoal.node.batches import NodeBatches
from shoal.node.certificates import Certificates
from shoal.node.console import Around, Console
from shoal.node.control import ControlServer
from shoal.node.doctor import Doctor
from shoal.node.duty import Duty
from shoal.node.engines import Engines
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.exposing import Exposing, RequestCounts, engines_said, ready_engines, scrape_digest, versions
from shoal.node.fleet_parts import Beginning, FleetParts, Surrounding
from shoal.node.identity import advertised_address, listen_address, local_nodes
from shoal.node.keys import NodeKeys
from shoal.node.lifelines import Lifelines
from shoal.node.lock import sole_owner
from shoal.node.notify import Notify
from shoal.node.parts import Parts
from shoal.node.reconciler import Reconciler
from shoal.node.relays import NodeRelay
from shoal.node.sampling import Sampler
from shoal.node.settings import membership_settings, part_settings, rule_timers, worker_settings
from shoal.node.sharing import Sharing
from shoal.node.shown import Shown
from shoal.node.signals import Signals
from shoal.node.slots import Slots
from shoal.node.sockets import control_socket
from shoal.node.targets import Targets
from shoal.node.watch import Externals, Orphans
from shoal.node.workers import Workers
from shoal.observe.snapshot import Snapshot
from shoal.routing.table import RoutingTable

# Desired and actual state are compared on every event, and this often without one. Seconds.
_TICK = 1.0
# Heartbeats that a node waits for the others' before it takes requests.
_FIRST_HEARTBEATS = 2
# While this node leaves and an engine across nodes finishes what it runs.
_RELEASED_INTERVAL = 0.1


def run(config: Config, node: Node, reread: Callable[[], Config]) -> int:
    """Run `node` of `config` until it is stopped; return the exit status.

    0 after a graceful stop, 1 when a second signal stopped it at once.

    Args:
        config: the configuration of the file; of a node that joined, the one it was told.
        node: the node of it that this process is.
        reread: returns the configuration as the file has it now, for a reload (SIGHUP); may raise ConfigError.

    Raises:
        StartError: the node cannot start.
    """
    return_memory()
    with (
        sole_owner(config.state_dir_of(node.name), node.name),
        control_socket(config.state_dir_of(node.name)) as socket,
    ):
        kept = AgreedStore(config.state_dir_of(node.name)).read()
        base, kept, sentence = begin_with(config, kept, named=config.node(node.name) is not None)
        begin = Beginning(config, base, kept, sentence)
        return uvloop.run(_Node(begin, node, reread, socket).run())


class _Node:
    """One node process. Its parts do the work; this says who tells whom what."""

    def __init__(
        self, begin: Beginning, node: Node, reread: Callable[[], Config], control_socket: Path
    ) -> None:
        self._file = begin.file
        self._config = config = with_joined(begin.base, begin.kept.agreed, node.name)
        self._node = node
        self._reread = reread
        self._control_socket = control_socket
        self._events = Events()
        self._wake = asyncio.Event()
        self._keeps_engines = False
        self._notify = Notify(os.environ)
        self._tasks: set[asyncio.Task[None]] = set()
        self._view = View(me=node.name)
        self._table = RoutingTable(version=0)
        self._slots = Slots(SLOTS)
        self._model_slots = Slots(SLOTS)
        self._listen = listen_address(node)
        self._advertised = advertised_address(node)
        ports.require_free(node.name, self._listen, node.port)
        self._gpus = gpus = visible(list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._certificates = self._make_certificates()
        tls = self._certificates.engine if config.engines_speak_tls else None
        self._duty = Duty(config, node, gpus, self._listen, tls)
        self._engines = self._make_engines()
        self._orphans = Orphans(self._certificates, self._wake.set)
        self._parts = Parts(part_settings(config, node, self._listen, self._advertised), self._events.add)
        self._lifelines = Lifelines(self._wake.set)
        self._externals = Externals(config, self._slots, self._events, self._wake.set)
        self._workers = Workers(
            self._worker_settings(),
            config.gateway.worker_count(),
            self._events,
            self._on_fault,
            prefix_memory=config.routing.prefix_memory,
            on_usage=self._on_usage,
        )
        self._keys = NodeKeys(
            config.gateway.keys,
            self._events,
            self._workers.key_cells,
            self._workers.use_keys,
            scrape_digest(config),
        )
        self._batches = NodeBatches(
            config,
            node,
            self._listen,
            view=self._current_view,
            certificates=self._certificates,
            keys=self._keys,
            events=self._events,
            held=lambda: self._relay.holds_batches,
        )
        self._batches.prepare()
        self._targets = Targets(config.monitoring.targets_file, config.cluster.name, self._events)
        self._told_to_leave = asyncio.Event()
        self._counts = RequestCounts(self._workers.metrics, self._slots, self._model_slots)
        self._fleet = self._make_fleet(begin, tls)
        self._reconciler = Reconciler(
            rule_timers(config),
            self._duty,
            self._parts,
            self._engines,
            self._fleet,
            orphans=self._orphans,
            lifelines=self._lifelines,
            events=self._events,
            announce=self._announce,
        )
        self._versions = versions()
        self._shown = Shown(
            node=node.name,
            fleet=self._fleet,
            view=self._current_view,
            event_history=self._events,
            workers=self._workers,
            externals=self._externals,
            node_keys=self._keys,
            exposing=Exposing(config, node.name, self._snapshot, self._workers.pids),
            node_batches=self._batches,
            began=time.monotonic(),
        )
        self._console = self._make_console()
        self._fleet.told |= Doctor(node.name, self._shown, self._fleet).handlers()
        more = [*self._fleet.order_routes(), *self._batches.routes(), *self._console.routes()]
        self._control = ControlServer(self._shown, control_socket, more)
        self._membership = Membership(
            membership_settings(config, node, self._listen), self._report, self._on_view, self._on_traffic
        )
        self._relay = NodeRelay(
            config,
            node,
            self._certificates,
            control_socket.parent,
            events=self._events,
            on_change=self._wake.set,
            udp=self._membership.quic_socket,
        )
        self._sharing = Sharing(
            self._slots, self._workers.in_flight, self._workers.affinity, self._membership.tell
        )

    # -- making the parts

    def _make_certificates(self) -> Certificates:
        """Make the node's certificate wherever there is a secret: other nodes may be ahead in `cluster.tls`."""
        cluster, node = self._config.cluster, self._node
        authority = Authority(cluster.name, cluster.secret) if cluster.secret else None
        certificates = Certificates(self._config.state_dir_of(node.name), authority)
        certificates.prepare(node.name, [node.host, *([] if is_any(self._listen) else [self._listen])])
        return certificates

    def _make_fleet(self, begin: Beginning, tls: Tls | None) -> FleetParts:
        around = Surrounding(
            node=self._node,
            listen=self._listen,
            advertised=self._advertised,
            tls=tls,
            certificates=self._certificates,
            duty=self._duty,
            events=self._events,
            view=self._current_view,
            answers=lambda: self._orphans.answers,
            configure=self._configure,
            renew=self._renew,
            moved=self._on_moved,
            announce=self._announce,
            leave=self._told_to_leave.set,
            outcomes=self._counts.outcomes,
            remembered=self._workers.explain,
        )
        return FleetParts(begin, around)

    def _make_console(self) -> Console:
        sampler = Sampler(self._snapshot, self._engines.loads, gpus=bool(self._gpus))
        around = Around(self._node.name, self._fleet, self._engines, self._events, self._shown, sampler)
        console = Console(around)
        self._fleet.more |= console.handlers()
        return console

    def _make_engines(self) -> Engines:
        config, node = self._config, self._node
        recovery = config.recovery
        # Nodes of one machine share its cores and memory; the others run about as many engines as this one.
        sharing = self._duty.most_engines * max(1, len(local_nodes(config)))
        return Engines(
            node=node.name,
            specs=self._duty.specs,
            settings=config.engines,
            state_dir=config.state_dir_of(node.name),
            machine=this_machine(sharing),
            gpus=self._gpus,
            advertised=self._advertised,
            drain_timeout=recovery.drain_timeout,
            settle=2 * config.cluster.heartbeat_interval,
            stall_timeout=recovery.stall_timeout,
            certificates=self._certificates,
            in_flight=self._in_flight,
            events=self._events,
            on_change=self._wake.set,
        )

    def _worker_settings(self) -> WorkerSettings:
        return worker_settings(
            self._config, self._node, self._listen, self._control_socket, self._certificates.clients()
        )

    # -- life

    async def run(self) -> int:
        """Start, serve until a signal comes, stop; return the exit status."""
        signals = Signals(on_reload=lambda: self._spawn(self._reload()))
        background: list[asyncio.Task[Any]] = []
        try:
            await self._start(background)
            scheme = "https" if self._config.gateway.tls else "http"
            self._events.add(
                f"node {self._node.name} is up: {scheme}://{self._node.name}/v1 answers for the cluster"
            )
            self._notify.ready()
            if not self._config.engines_speak_tls and any(map(beyond_loopback, self._config.nodes)):
                text = "`cluster.tls` is off: whoever reaches an engine's port can use the engine"
                self._events.add(text, "warning")
            reconciling = asyncio.create_task(self._reconcile())
            background.append(reconciling)
            told = asyncio.create_task(self._told_to_leave.wait())
            background.append(told)
            reasons: set[asyncio.Future[Any]] = {reconciling, signals.first, signals.hand_over, told}
            await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                reconciling.result()  # raises: the rules never end by themselves
            leaving = asyncio.create_task(self._hand_over() if signals.hand_over.done() else self._leave())
            await asyncio.wait({leaving, signals.second}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                self._events.add("second signal: stopping at once", "warning")
                self._keeps_engines = False
                leaving.cancel()
                return 1
            leaving.result()
            return 0
        finally:
            await self._end(background)

    async def _start(self, background: list[asyncio.Task[Any]]) -> None:
        background.append(asyncio.create_task(self._control.serve()))
        background += [asyncio.create_task(work) for work in self._fleet.work()]
        # Before anybody is told that this node is back: what went on running must be known as ready.
        await self._engines.adopt()
        self._certificates.tidy({e.authority for e in self._engines.reports()})
        self._reconciler.resume()
        try:
            await self._membership.check_identity()
            await self._membership.start()
            await self._relay.start()
        except (IdentityInUse, BindError) as error:
            raise StartError(str(error)) from error
        await self._hear_others()
        self._externals.start()
        self._update_table()
        await self._workers.start()
        background.append(asyncio.create_task(self._share_loads()))
        background.append(asyncio.create_task(self._keys.watch()))
        background.append(asyncio.create_task(self._console.work()))
        await self._batches.start()

    async def _hear_others(self) -> None:
        """Wait for the others' heartbeats, so that clients find engines at once; not long, for they may be down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_HEARTBEATS * self._config.cluster.heartbeat_interval):
                while True:
                    self._wake.clear()
                    self._view = self._membership.view()
                    if all(m.state is not MemberState.UNKNOWN for m in self._view.members):
                        return
                    await self._wake.wait()

    async def _reload(self) -> None:
        """Read the file again and replace the gateway workers by new ones, without dropping a connection."""
        try:
            config = await asyncio.to_thread(self._reread)
            self._keys.configure(config.gateway.keys)
        except ConfigError as error:
            self._events.add(f"reload refused, everything stays as it is: {error}", "error")
            return
        if config.model_copy(update={"gateway": self._file.gateway}) != self._file:
            self._events.add("reload: changes outside `gateway` take effect at the next start", "warning")
        self._config = self._config.model_copy(update={"gateway": config.gateway})
        self._fleet.config = self._config
        await self._renew_workers()

    async def _renew_workers(self) -> None:
        """Replace the gateway workers by ones with the present settings."""
        try:
            self._keys.configure(self._config.gateway.keys)
            await self._workers.reload(self._worker_settings(), self._config.recovery.drain_timeout)
        except (StartError, ConfigError) as error:
            self._events.add(f"reload failed: {error}", "error")
        else:
            self._events.add(
                "reloaded: new gateway workers serve, the former ones finish what they have open"
            )

    async def _leave(self) -> None:
        """Drain: no new requests, running ones finish, engines stop."""
        timeout = self._config.recovery.drain_timeout
        self._events.add(f"node {self._node.name} is draining: running requests have {timeout:g} s to finish")
        self._notify.stopping("draining")
        self._reconciler.leaving = True
        self._console.leave()
        self._membership.announce()
        self._wake.set()
        await self._batches.stop()
        # Requests that this gateway has open may run on our own engines: first the one, then the other.
        await self._workers.drain(timeout)
        await self._released(timeout)
        await self._engines.stop_all()
        self._duty.forget()
        await self._relay.stop()
        await self._membership.stop(goodbye=True)
        self._events.add(f"node {self._node.name} has stopped")

    async def _hand_over(self) -> None:
        """End this process but not its engines, which the others' gateways use until the next process adopts them."""
        self._events.add(f"node {self._node.name} hands over: its engines go on for its next process")
        self._notify.stopping("handing over")
        self._keeps_engines = True
        await self._batches.stop()
        await self._workers.drain(self._config.recovery.drain_timeout)

    async def _released(self, timeout: float) -> None:
        """Return when no engine that another node leads needs this one, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._parts.follows():  # noqa: ASYNC110 - its leader lets it finish what it runs
                    await asyncio.sleep(_RELEASED_INTERVAL)

    async def _end(self, background: list[asyncio.Task[Any]]) -> None:
        """End what is left, whatever happened before."""
        self._workers.kill()
        self._orphans.stop()
        self._lifelines.stop()
        self._externals.stop()
        self._control.stop()
        self._fleet.stop()
        if not self._keeps_engines:
            await self._engines.kill_all()
        await self._relay.stop()
        # Who says good-bye takes its engines along.
        await self._membership.stop(goodbye=not self._keeps_engines)
        await self._batches.stop()
        await self._batches.close()
        for task in background[2:]:  # the control app and the link end by themselves
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*background, return_exceptions=True)

    # -- reconciling

    async def _reconcile(self) -> None:
        while True:
            self._wake.clear()
            self._view = self._membership.view()
            self._reconciler.look(self._view)
            self._view = self._membership.view()
            self._orphans.update(self._view)
            self._targets.update(self._view)
            self._lifelines.update(self._view)
            self._update_table()
            self._notify.alive(self._view)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK)

    def _configure(self, config: Config) -> None:
        """Go on with another configuration: nodes came or went, or one was applied."""
        former, self._config = self._config, config
        before, now = ({n.name: n for n in c.nodes} for c in (former, config))
        for name in now.keys() - before.keys():
            self._membership.expect(now[name].host, now[name].port)
        for name in before.keys() - now.keys():
            self._membership.dismiss(name)
        if former.models != config.models or self._node.role == "standby":
            self._reconciler.prepare_anew(config, self._fleet.rollout.committed(config))
            self._fleet.files.want(config, self._node)
            self._externals.configure(config)
        self._reconciler.renew()
        if former.gateway != config.gateway or former.admission != config.admission:
            self._spawn(self._renew_workers())

    def _on_moved(self) -> None:
        if not self._fleet.rollout.under_way:
            self._reconciler.prepare_anew(self._config)

    def _renew(self) -> None:
        self._reconciler.renew()

    def _announce(self) -> None:
        """Let everybody know, the own gateway first, that this node's report has changed."""
        self._wake.set()
        self._membership.announce()

    def _update_table(self) -> None:
        direct = tables.routing_table(
            self._config,
            self._view,
            version=self._table.version,
            slot=self._slots,
            answers=self._orphans.answers,
            externals=self._externals.known(),
            local_host=self._listen,
            model_slot=self._model_slots,
            draining=self._reconciler.leaving,
        )
        table = self._relay.through(direct)
        if table != self._table:
            self._table = tables.next_version(table)
            self._counts.note(table)
            self._workers.update(self._table)

    # -- what the parts tell each other

    def _in_flight(self, engine: str) -> int:
        """Return the requests that all gateways, as far as heard of, have open on an engine of this node."""
        slot = self._slots.get(full_id(self._node.name, engine))
        return 0 if slot is None else self._workers.in_flight.load(slot)

    def _on_view(self, view: View, sentences: list[str]) -> None:
        self._view = view
        self._fleet.hear(view)
        for sentence in sentences:
            self._events.add(sentence, "warning" if " is dead" in sentence else "info")
        self._wake.set()

    def _on_traffic(self, member: str, traffic: Traffic) -> None:
        self._sharing.heard(member, traffic)

    def _on_fault(self, fault: EngineFault) -> None:
        times = f" ({fault.count} times)" if fault.count > 1 else ""
        last = f"; it is tried last for {fault.last_for:g} s" if fault.last_for else ""
        self._events.add(f"gateway: engine {fault.engine}: {fault.reason}{times}{last}", "warning")
        self._wake.set()

    def _on_usage(self, usage: KeyUsage) -> None:
        self._keys.accounts.account(usage)

    def _report(self) -> NodeReport:
        in_flight = self._workers.in_flight
        counts = {engine: in_flight.local(slot) for engine, slot in self._slots.known().items()}
        report = NodeReport(
            name=self._node.name,
            version=__version__,
            role=self._node.role,
            draining=self._reconciler.leaving,
            covers=self._duty.covers,
            engines=self._duty.marked(self._parts.shown(self._engines.reports())),
            in_flight={engine: count for engine, count in counts.items() if count},
            waiting=self._waiting(),
            key_use=self._keys.accounts.shares(),
            seats=self._parts.seats(self._engines.parts()),
            interface=self._batches.interface(),
        )
        return self._fleet.completed(report, self._engines.fingerprints())

    async def _share_loads(self) -> None:
        """Tell other nodes what this one's gateways do, and let the workers see what theirs do."""
        interval = self._config.cluster.heartbeat_interval / 10
        while True:
            view = self._membership.view()
            self._keys.accounts.hear(view)
            self._sharing.update(view, [e.report for e in self._externals.known()])
            self._workers.metrics.set_elsewhere(queues.by_slot(gateways_waiting(view), self._model_slots))
            if self._sharing.alone:
                await asyncio.sleep(5 * interval)
                continue
            for _ in range(5):
                self._sharing.tick()
                await asyncio.sleep(interval)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _snapshot(self) -> Snapshot:
        view, waiting, workers = self._current_view(), self._waiting(), self._workers
        return Snapshot(
            view=view,
            totals=workers.metrics.totals(),
            outcomes=self._counts.outcomes(),
            dispatched=self._counts.dispatched(),
            waiting={
                m.name: waiting[m.name].requests if m.name in waiting else 0 for m in self._config.models
            },
            keys=tuple(self._keys.accounts.rows()),
            datagrams=self._membership.counters,
            events=dict(self._events.counts),
            takeovers=self._duty.takeovers,
            ready=ready_engines(self._table),
            workers=len(workers.pids()),
            worker_restarts=workers.replaced,
            versions=self._versions,
            batches=self._batches.counts(),
            ways=self._relay.ways(),
            carried=self._relay.carried(),
            engines=engines_said(view, self._engines.said()),
        )

    def _current_view(self) -> View:
        return self._membership.view()

    def _waiting(self) -> dict[str, Waiting]:
        return queues.waiting(self._workers.metrics, self._model_slots)
