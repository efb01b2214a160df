"""The node process: everything a node consists of, wired together, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from shoal import __version__
from shoal.cluster.endpoint import BindError
from shoal.cluster.identity import IdentityInUse
from shoal.cluster.membership import Membership
from shoal.cluster.pki import Authority
from shoal.cluster.view import NodeReport, View, Waiting, full_id, gateways_waiting
from shoal.cluster.wire import Traffic
from shoal.config import Config, ConfigError, Node
from shoal.config.rules import beyond_loopback
from shoal.engine.gpu import list_gpus, visible
from shoal.engine.machine import this_machine
from shoal.gateway.counters import SLOTS
from shoal.gateway.messages import EngineFault, KeyUsage, WorkerSettings
from shoal.node import ports, queues, tables
from shoal.node.addresses import is_any
from shoal.node.certificates import Certificates
from shoal.node.control import ControlServer
from shoal.node.duty import Duty
from shoal.node.engines import Engines
from shoal.node.errors import StartError
from shoal.node.events import Events
from shoal.node.identity import advertised_address, listen_address, local_nodes
from shoal.node.keys import NodeKeys
from shoal.node.lock import sole_owner
from shoal.node.reconcile import Local, plan
from shoal.node.settings import membership_settings, rule_timers, worker_settings
from shoal.node.sharing import Sharing
from shoal.node.signals import Signals
from shoal.node.slots import Slots
from shoal.node.sockets import control_socket
from shoal.node.status import status_document
from shoal.node.watch import Externals, Orphans
from shoal.node.workers import Workers
from shoal.observe.metrics import NodeCollector, render
from shoal.routing.table import RoutingTable

# Desired and actual state are compared on every event, and this often without one. Seconds.
_TICK = 1.0
# More decisions than this in one go would be rules that contradict each other.
_MAX_DECISIONS = 1000


def run(config: Config, node: Node, reread: Callable[[], Config]) -> int:
    """Run `node` of `config` until it is stopped; return the exit status.

    0 after a graceful stop, 1 when a second signal stopped it at once.

    Args:
        config: the configuration.
        node: the node of it that this process is.
        reread: returns the configuration as the file has it now, for a reload (SIGHUP); may raise ConfigError.

    Raises:
        StartError: the node cannot start.
    """
    with (
        sole_owner(config.state_dir_of(node.name), node.name),
        control_socket(config.state_dir_of(node.name)) as socket,
    ):
        return uvloop.run(_Node(config, node, reread, socket).run())


class _Node:
    """One node process. Its parts do the work; this says who tells whom what."""

    def __init__(
        self, config: Config, node: Node, reread: Callable[[], Config], control_socket: Path
    ) -> None:
        self._config = config
        self._node = node
        self._reread = reread
        self._control_socket = control_socket
        self._began = time.monotonic()
        self._events = Events()
        self._wake = asyncio.Event()
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._view = View(me=node.name)
        self._table = RoutingTable(version=0)
        self._slots = Slots(SLOTS)
        self._model_slots = Slots(SLOTS)
        self._listen = listen_address(node)
        ports.require_free(node.name, self._listen, node.port)
        self._gpus = gpus = visible(list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._certificates = self._make_certificates()
        tls = self._certificates.engine if config.engines_speak_tls else None
        self._duty = Duty(config, node, gpus, self._listen, tls)
        self._wanted = self._duty.wanted
        self._engines = self._make_engines()
        self._orphans = Orphans(self._certificates, self._wake.set)
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
            config.gateway.keys, self._events, self._workers.key_cells, self._workers.use_keys
        )
        self._control = ControlServer(self, control_socket)
        self._collector = NodeCollector(
            self._current_view,
            self._workers.metrics.totals,
            self._engine_counts,
            self._waiting_requests,
            self._keys.accounts.rows,
        )
        self._membership = Membership(
            membership_settings(config, node, self._listen), self._report, self._on_view, self._on_traffic
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

    def _make_engines(self) -> Engines:
        config, node = self._config, self._node
        recovery = config.recovery
        self._timers = rule_timers(config)
        # Nodes of one machine share its cores and memory; the others run about as many engines as this one.
        sharing = self._duty.most_engines * max(1, len(local_nodes(config)))
        return Engines(
            node=node.name,
            specs=self._duty.specs,
            settings=config.engines,
            state_dir=config.state_dir_of(node.name),
            machine=this_machine(sharing),
            gpus=self._gpus,
            advertised=advertised_address(node),
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
            if not self._config.engines_speak_tls and any(map(beyond_loopback, self._config.nodes)):
                text = "`cluster.tls` is off: whoever reaches an engine's port can use the engine"
                self._events.add(text, "warning")
            reconciling = asyncio.create_task(self._reconcile())
            background.append(reconciling)
            await asyncio.wait({reconciling, signals.first}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                reconciling.result()  # raises: the rules never end by themselves
            leaving = asyncio.create_task(self._leave())
            await asyncio.wait({leaving, signals.second}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                self._events.add("second signal: stopping at once", "warning")
                leaving.cancel()
                return 1
            leaving.result()
            return 0
        finally:
            await self._end(background)

    async def _start(self, background: list[asyncio.Task[Any]]) -> None:
        background.append(asyncio.create_task(self._control.serve()))
        # Before anybody is told that this node is back: what went on running must be known as ready.
        await self._engines.adopt()
        self._certificates.tidy({e.authority for e in self._engines.reports()})
        self._obey(self._duty.resume(adopted=bool(self._engines.actual())))
        try:
            await self._membership.check_identity()
            await self._membership.start()
        except (IdentityInUse, BindError) as error:
            raise StartError(str(error)) from error
        self._view = self._membership.view()
        self._externals.start()
        await self._workers.start()
        background.append(asyncio.create_task(self._share_loads()))
        background.append(asyncio.create_task(self._keys.watch()))

    async def _reload(self) -> None:
        """Read the file again and replace the gateway workers by new ones, without dropping a connection."""
        try:
            config = await asyncio.to_thread(self._reread)
            self._keys.configure(config.gateway.keys)
        except ConfigError as error:
            self._events.add(f"reload refused, everything stays as it is: {error}", "error")
            return
        if config.model_copy(update={"gateway": self._config.gateway}) != self._config:
            self._events.add("reload: changes outside `gateway` take effect at the next start", "warning")
        self._config = self._config.model_copy(update={"gateway": config.gateway})
        try:
            await self._workers.reload(self._worker_settings(), config.recovery.drain_timeout)
        except StartError as error:
            self._events.add(f"reload failed: {error}", "error")
        else:
            self._events.add(
                "reloaded: new gateway workers serve, the former ones finish what they have open"
            )

    async def _leave(self) -> None:
        """Drain: no new requests, running ones finish, engines stop."""
        timeout = self._config.recovery.drain_timeout
        self._events.add(f"node {self._node.name} is draining: running requests have {timeout:g} s to finish")
        self._leaving = True
        self._membership.announce()
        self._wake.set()
        # Requests that this gateway has open may run on our own engines: first the one, then the other.
        await self._workers.drain(timeout)
        await self._engines.stop_all()
        self._duty.forget()
        await self._membership.stop(goodbye=True)
        self._events.add(f"node {self._node.name} has stopped")

    async def _end(self, background: list[asyncio.Task[Any]]) -> None:
        """End what is left, whatever happened before."""
        self._workers.kill()
        self._orphans.stop()
        self._externals.stop()
        self._control.stop()
        await self._engines.kill_all()
        await self._membership.stop(goodbye=True)
        for task in background[1:]:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*background, return_exceptions=True)

    # -- reconciling

    async def _reconcile(self) -> None:
        while True:
            self._wake.clear()
            if not self._leaving:
                self._obey(self._duty.review(self._view, self._orphans.answers, time.monotonic()))
            self._decide()
            self._view = self._membership.view()
            self._orphans.update(self._view)
            self._update_table()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK)

    def _obey(self, reason: str | None) -> None:
        """Take over or give back, if there is a reason to."""
        if reason is None:
            return
        self._events.add(reason, "warning" if self._duty.covers else "info")
        self._wanted = self._duty.wanted
        self._engines.want(self._duty.specs)
        self._membership.announce()

    def _decide(self) -> None:
        for _ in range(_MAX_DECISIONS):
            local = Local(now=time.monotonic(), engines=self._engines.actual(), leaving=self._leaving)
            action = plan(self._wanted, local, self._timers)
            if action is None:
                return
            self._engines.apply(action)
            self._membership.announce()
        raise RuntimeError(f"more than {_MAX_DECISIONS} decisions in one go, the last: {action}")

    def _update_table(self) -> None:
        table = tables.routing_table(
            self._config,
            self._view,
            version=self._table.version,
            slot=self._slots,
            answers=self._orphans.answers,
            externals=self._externals.known(),
            local_host=self._listen,
            model_slot=self._model_slots,
            draining=self._leaving,
        )
        if table != self._table:
            self._table = tables.next_version(table)
            self._workers.update(self._table)

    # -- what the parts tell each other

    def _in_flight(self, engine: str) -> int:
        """Return the requests that all gateways, as far as heard of, have open on an engine of this node."""
        slot = self._slots.get(full_id(self._node.name, engine))
        return 0 if slot is None else self._workers.in_flight.load(slot)

    def _on_view(self, view: View, sentences: list[str]) -> None:
        self._view = view
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
        return NodeReport(
            name=self._node.name,
            version=__version__,
            role=self._node.role,
            config_hash=self._config.agreed_hash(),
            draining=self._leaving,
            covers=self._duty.covers,
            engines=self._duty.marked(self._engines.reports()),
            in_flight={engine: count for engine, count in counts.items() if count},
            waiting=self._waiting(),
            key_use=self._keys.accounts.shares(),
        )

    async def _share_loads(self) -> None:
        """Tell other nodes what this one's gateways do, and let the workers see what theirs do."""
        interval = self._config.cluster.heartbeat_interval / 10
        while True:
            view = self._membership.view()
            self._keys.accounts.hear(view)
            self._sharing.update(view, [e.report for e in self._externals.known()])
            self._workers.metrics.set_elsewhere(queues.by_slot(gateways_waiting(view), self._model_slots))
            for _ in range(5):
                self._sharing.tick()
                await asyncio.sleep(interval)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what the control app shows

    def self_document(self) -> dict[str, Any]:
        """Return who this is."""
        return {"node": self._node.name, "version": __version__, "pid": os.getpid()}

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return status_document(
            self._current_view(),
            cluster=self._config.cluster.name,
            uptime=time.monotonic() - self._began,
            events=self._events.last(),
            externals=self._externals.known(),
            workers=self._workers.status(),
        )

    def keys(self) -> list[dict[str, Any]]:
        """Return the API keys, without anything secret, and what they have used."""
        return self._keys.accounts.document(self._keys.table)

    def metrics(self) -> bytes:
        """Return this node's metrics in Prometheus' text format."""
        return render(self._collector)

    def _current_view(self) -> View:
        return self._membership.view()

    def _waiting(self) -> dict[str, Waiting]:
        return queues.waiting(self._workers.metrics, self._model_slots)

    def _waiting_requests(self) -> Iterator[tuple[str, int]]:
        waiting = self._waiting()
        for model in self._config.models:
            yield model.name, waiting[model.name].requests if model.name in waiting else 0

    def _engine_counts(self) -> Iterator[tuple[str, int, int]]:
        for engine, slot in self._slots.known().items():
            yield engine, *self._workers.metrics.per_engine(slot)
