"""The node's relay: started and replaced, told of engines; which engines' requests go through it, and which by tcp."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.cluster.wire import NO_SECRET
from shoal.config import Config, Node
from shoal.config.communication import THROUGH_BROKERS
from shoal.gateway.messages import Credentials
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.relay_process import RelayProcess
from shoal.node.relay_routes import by_tcp, relay_table, through, ways
from shoal.observe.snapshot import Carried, Way
from shoal.routing.table import RoutingTable
from shoal.transport.messages import RelayCounts, RelayNotice, RelaySettings, RelayState, RelayTable

# A relay that dies is replaced after this long, twice as long each time while it dies soon again. Seconds.
_RESTART_FIRST, _RESTART_MOST, _SOON = 0.2, 10.0, 20.0
_END = 4.0  # s for a relay to end in good order
# A relay that has said nothing for so long hangs, and with it what workers have given it. Seconds.
_HANGS_AFTER, _LOOK = 6.0, 0.5
_STARTS_WITHIN = 60.0  # s until its first word; nobody gives it anything before


class NodeRelay:
    """What `communication.protocol` other than tcp adds to a node. With tcp it does nothing.

    Args:
        config: the configuration.
        node: this node.
        certificates: of the node.
        directory: where its unix sockets are; a short path.
        events: gets a sentence when requests take another way.
        on_change: called when the routing table should be made anew.
        udp: returns the node's socket for QUIC; may raise `BindError`.
    """

    def __init__(
        self,
        config: Config,
        node: Node,
        certificates: Certificates,
        directory: Path,
        *,
        events: Events,
        on_change: Callable[[], None],
        udp: Callable[[], socket.socket],
    ) -> None:
        self._protocol: str = config.communication.protocol
        self._config = config
        self._node = node
        self._certificates = certificates
        self._directory = directory
        self._events = events
        self._on_change = on_change
        self._udp_source = udp
        self._udp: socket.socket | None = None
        self._process: RelayProcess | None = None
        self._state = RelayState()
        self._counts = RelayCounts()
        self._told: dict[str, str] = {}  # the way of requests as last told of, see `ways`
        self._table = RelayTable(())
        self._began = self._heard = 0.0
        self._delay = _RESTART_FIRST
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the relay. Raises `BindError` where QUIC cannot share the UDP port."""
        if self._protocol == "tcp":
            return
        if self._protocol == "udp":
            self._udp = self._udp_source()
        await self._start()
        self._spawn(self._watch())

    def through(self, table: RoutingTable) -> RoutingTable:
        """Return `table` with the relay's sockets for the engines that it leads to; tell it of the engines first."""
        if self._protocol == "tcp":
            return table
        known = relay_table(table, self._node.name, self._directory, all_engines=self._protocol != "udp")
        if known != self._table:
            self._table = known
            if self._process is not None:
                self._process.send(known)
        return through(table, known, self._state)

    @property
    def holds_batches(self) -> bool:
        """Whether requests of batches are to wait, because the broker they go through is away."""
        carries = self._process is not None and self._state.listening and not self._state.trouble
        return self._protocol in THROUGH_BROKERS and not carries

    def ways(self) -> tuple[Way, ...]:
        """Return how requests get to the nodes with engines, for metrics; nothing with tcp."""
        state = self._state if self._process is not None else None
        told = by_tcp(self._table, state)
        return tuple(Way(peer, self._protocol, instead) for peer, instead in told.items())

    def carried(self) -> Carried | None:
        """Return what became of requests, for metrics; None with tcp."""
        if self._protocol == "tcp":
            return None
        return Carried(self._protocol, self._counts.asked, self._counts.served)

    async def stop(self) -> None:
        """End the relay in good order."""
        self._ending = True
        if (process := self._process) is not None:
            process.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.ended(), _END)
            process.kill()
        for task in self._tasks:
            task.cancel()

    async def _start(self) -> None:
        self._process = RelayProcess(
            self._settings(), self._on_state, self._on_counts, self._on_notice, self._on_end
        )
        self._counts = RelayCounts()
        self._began = time.monotonic()
        self._heard = self._began + _STARTS_WITHIN - _HANGS_AFTER
        await self._process.serve(self._udp, self._table)

    def _settings(self) -> RelaySettings:
        config = self._config
        broker = config.communication.broker
        return RelaySettings(
            protocol=self._protocol,
            node=self._node.name,
            cluster=config.cluster.name,
            credentials=self._credentials(),
            authorities=self._certificates.clients(),
            connect_timeout=config.gateway.connect_timeout,
            timeout=config.communication.timeout,
            max_wait=config.admission.max_wait,
            options=broker.model_dump(mode="json") if broker is not None else {},
            nodes=len(config.nodes),
            incarnation=time.time_ns() // 1_000_000,
        )

    def _credentials(self) -> Credentials:
        files = self._certificates.engine
        if (
            files is None
        ):  # a cluster on loopback without a secret: a constant in its place, as for heartbeats
            cluster = self._config.cluster.name
            kept = Certificates(self._directory / "relay", Authority(cluster, NO_SECRET))
            kept.prepare(self._node.name, [self._node.host])
            files = kept.engine
            assert files is not None
        return Credentials(ca=files.ca, certificate=files.certificate, key=files.key, server_name=SERVER_NAME)

    # -- what the relay says

    def _on_state(self, state: RelayState) -> None:
        self._heard = time.monotonic()
        if state == self._state:
            return
        self._state = state
        if self._process is not None and not self._ending:
            self._tell(ways(self._table, state, per_node=self._protocol == "udp"))
        self._on_change()

    def _tell(self, now: dict[str, str]) -> None:
        """Note what goes by tcp from now on, and what does so no more."""
        for node, why in now.items():
            if self._told.get(node) == why:
                continue
            whose = f"requests to {node}" if node else "requests"
            if why:
                self._events.add(f"{whose} go by tcp, not {self._protocol}: {why}", "warning")
            else:
                self._events.add(f"{whose} go by {self._protocol}{' again' if node in self._told else ''}")
        self._told |= now

    def _on_counts(self, counts: RelayCounts) -> None:
        self._counts = counts

    def _on_notice(self, notice: RelayNotice) -> None:
        self._events.add(notice.text, "info" if notice.level == "info" else "warning")

    def _on_end(self, how: str) -> None:
        self._process = None
        self._told = {}
        if self._ending:
            return
        lived = time.monotonic() - self._began
        self._delay = _RESTART_FIRST if lived > _SOON else min(2 * self._delay, _RESTART_MOST)
        self._events.add(
            f"the relay for {self._protocol} {how}: requests go by tcp, a new one starts in {self._delay:g} s",
            "warning",
        )
        self._spawn(self._again())

    async def _watch(self) -> None:
        """Kill a relay that hangs; another one takes its place."""
        while True:
            await asyncio.sleep(_LOOK)
            # Seen twice: a machine that slept, or a node process that was stopped, has the relay's words still to read.
            silent = time.monotonic() - self._heard
            if self._process is not None and silent > _HANGS_AFTER and not self._ending:
                await asyncio.sleep(_LOOK)
                if self._process is not None and time.monotonic() - self._heard > _HANGS_AFTER:
                    self._events.add(
                        f"the relay for {self._protocol} has hung for {silent:.0f} s: it is killed", "warning"
                    )
                    self._heard = time.monotonic()
                    self._process.kill()

    async def _again(self) -> None:
        await asyncio.sleep(self._delay)
        if not self._ending:
            await self._start()
            self._events.add(f"a new relay for {self._protocol} has started")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
