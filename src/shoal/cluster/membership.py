"""Membership: the node's part in the cluster over UDP. The I/O around `shoal.cluster.roster`.

Every member sends every other one a heartbeat each `Timers.interval`, on the UDP port with the number of its gateway.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec

from shoal.cluster.addresses import Address, Contact, format_address, split_name
from shoal.cluster.detector import Timers
from shoal.cluster.dns import Resolver
from shoal.cluster.endpoint import BindError, Endpoint
from shoal.cluster.identity import IdentityCheck
from shoal.cluster.replay import Replay, ReplayGuard, StaleIncarnation
from shoal.cluster.roster import Connect, Effect, Roster, Send, SendHeartbeat, Tell
from shoal.cluster.throttle import Throttle
from shoal.cluster.view import NodeReport, View
from shoal.cluster.wire import (
    Codec,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Payload,
    TooLarge,
    Traffic,
    WireError,
    WrongCluster,
    WrongSecret,
    WrongVersion,
)

log = logging.getLogger(__name__)

_RESOLVE_WAIT: Final = 2.0
_REOPEN_EVERY: Final = 1.0
_GOODBYES: Final = 3
_GOODBYE_GAP: Final = 0.02
_MAX_CONNECTS: Final = 64


class MembershipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What membership needs to know.

    Attributes:
        name: this node's name, ``host:port``.
        bind: address to listen on.
        port: UDP port to listen on.
        peers: host and port of the nodes in the file; this node's own entry is skipped.
        cluster: the cluster's name.
        secret: the cluster's secret; None only for a cluster on loopback.
        incarnation: start of this process, ms since the epoch; 0 for now.
        timers: of the failure detector.
    """

    name: str
    bind: str
    port: int
    peers: tuple[tuple[str, int], ...] = ()
    cluster: str = "shoal"
    secret: str | None = None
    incarnation: int = 0
    timers: Timers = Timers()


class Membership:
    """Takes part in a cluster. Use: `check_identity`, `start`, and in the end `stop`; one life per object.

    All of it belongs to one event loop and is called from there.
    """

    def __init__(
        self,
        settings: MembershipSettings,
        report_source: Callable[[], NodeReport],
        on_change: Callable[[View, list[str]], None],
        on_traffic: Callable[[str, Traffic], None] = lambda *_: None,
    ) -> None:
        """Prepare; nothing is sent or bound yet.

        Args:
            settings: see there.
            report_source: returns what this node says of itself now; called for every heartbeat, so it must be
                quick. Name, incarnation and `heard` are filled in here.
            on_change: called from the event loop with the new view and one sentence or more, when a member's state
                or its report (but for load) changed or something is wrong; at most once per turn of the loop.
            on_traffic: called with a member's name and what it says of its gateways' traffic.
        """
        self.settings = settings
        self._report_source = report_source
        self._on_change = on_change
        self._on_traffic = on_traffic
        started = settings.incarnation or time.time_ns() // 1_000_000
        self._roster = Roster(settings.name, started, settings.timers, settings.peers)
        self._codec = Codec(settings.cluster, settings.secret)
        self._guard = ReplayGuard()
        self._throttle = Throttle()
        self._counters: Counter[str] = Counter()
        self._sequence = 0
        self._endpoint: Endpoint | None = None
        self._quic: socket.socket | None = None
        self._own_report: NodeReport | None = None
        self._news: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[str] = set()
        self._resolver: Resolver | None = None
        self._round_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._stopped = False

    # -- life --------------------------------------------------------------------------------------------------

    async def check_identity(self) -> None:
        """Ask the other members whether another running process has this node's name.

        Takes half an interval if others answer, one if nobody does, and two to four if the name was heard just now.

        Raises:
            IdentityInUse: one has; the socket is closed again.
            BindError: the UDP port cannot be had; `AddressInUse` if another process has it.
        """
        resolver = await self._open()
        interval = self.settings.timers.interval
        # A namesake elsewhere may be the only other node: the name's own address is asked as well.
        own = Contact.to(*(split_name(self.settings.name) or (self.settings.bind, self.settings.port)))
        resolver.add(own)
        await resolver.tried(_RESOLVE_WAIT)
        check = IdentityCheck(self.settings.name, self._roster.incarnation, interval, self._now())
        self._roster.check = check
        try:
            while not check.clear(self._now()):
                if (conflict := check.conflict()) is not None:
                    raise conflict
                self._send(self._roster.targets(self._now()).union(own.addresses), Hello())
                await asyncio.sleep(interval / 4)
        except BaseException:
            await self.stop(goodbye=False)
            raise
        finally:
            self._roster.check = None
        self._roster.incarnation = check.incarnation

    async def start(self) -> None:
        """Join: listen, send heartbeats, judge the others.

        Raises:
            BindError: the UDP port cannot be had; `AddressInUse` if another process has it.
        """
        await self._open()
        self._roster.join(self._now())
        self._round(self._now())
        self._tick()

    async def stop(self, goodbye: bool = True) -> None:
        """Leave: say good-bye (or vanish without), close the socket, end what is under way. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        for timer in (self._round_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        if goodbye and self._roster.joined:
            for _ in range(_GOODBYES):
                self._send(self._roster.targets(self._now()), Goodbye())
                await asyncio.sleep(_GOODBYE_GAP)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._resolver is not None:
            self._resolver.close()
        if self._endpoint is not None:
            await self._endpoint.close()
        if self._quic is not None:
            self._quic.close()

    # -- use ---------------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        """The incarnation this node goes by."""
        return self._roster.incarnation

    @property
    def counters(self) -> dict[str, int]:
        """Datagrams since the start: sent, received, and what was refused, by reason."""
        endpoint = self._endpoint
        lost = {"send_dropped": endpoint.dropped, "network_errors": endpoint.errors} if endpoint else {}
        return {**self._counters, **lost}

    def view(self) -> View:
        """Return the snapshot of this moment."""
        now = self._now()
        return self._roster.view(self._roster.heartbeat(self._report(), now).report, now)

    def add_peer(self, host: str, port: int) -> None:
        """Talk to a node that no file names; it becomes a member, under its own name, when it answers."""
        contact = self._roster.book.add(host, port)
        if self._resolver is not None:
            self._resolver.add(contact)
            self._greet(contact)

    def expect(self, host: str, port: int) -> None:
        """Count a node as a member from now on, heard or not, and talk to it."""
        if f"{host}:{port}" != self.settings.name:
            contact = self._roster.expect(host, port)
            if self._resolver is not None:
                self._resolver.add(contact)
                self._greet(contact)

    def dismiss(self, name: str) -> None:
        """Count a node as a member only for as long as it is heard, and `Timers.leave_after` longer."""
        self._roster.dismiss(name)

    def quic_socket(self) -> socket.socket:
        """Return the node's socket for QUIC, which shares the port; it stays this object's. After `start`.

        Raises:
            BindError: there cannot be one.
        """
        if self._quic is None:
            assert self._endpoint is not None
            self._quic = self._endpoint.share()
        return self._quic

    def announce(self) -> None:
        """Send a heartbeat now, not in half a second: this node's report has changed in a way that matters."""
        if self._roster.joined and not self._stopped:
            self._send_heartbeat(self._roster.targets(self._now()))

    def tell(self, traffic: Traffic) -> None:
        """Tell all members that live what this node's gateways do; dropped if it does not fit into a datagram."""
        if self._roster.joined and not self._stopped and (to := self._roster.alive()):
            try:
                self._send(to, traffic)
            except TooLarge as error:
                self._tell_rarely("traffic", f"not told to other nodes: {error}")

    # -- sending -----------------------------------------------------------------------------------------------

    def _round(self, due: float) -> None:
        now, interval = self._now(), self.settings.timers.interval
        # In step with the last one; rounds that were missed are left out. The next one comes whatever this one does.
        due = max(due + interval, now + interval / 10)
        self._round_timer = asyncio.get_running_loop().call_at(due, self._round, due)
        self._send_heartbeat(self._roster.targets(now))

    def _tick(self) -> None:
        try:
            self._apply(self._roster.tick(self._now()))
        finally:
            due = max(self._roster.detector.due, self._now() + 0.001)
            self._tick_timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _report(self) -> NodeReport:
        try:
            self._own_report = self._report_source()
        except Exception:
            # A fault elsewhere in the node must not stop its heartbeats: the others would take it for dead.
            if self._own_report is None:
                raise
            if self._throttle.allow("report", self._now()):
                log.exception("this node's report cannot be made; the last one is sent again")
        return self._own_report

    def _send_heartbeat(self, to: Iterable[Address]) -> None:
        """Send a heartbeat with a fresh report; if it does not fit, with as much of it as does."""
        to = tuple(to)
        report = self._roster.heartbeat(self._report(), self._now()).report
        while True:
            try:
                self._send(to, Heartbeat(report))
                return
            except TooLarge as error:
                if not report.engines and not report.in_flight:
                    self._tell_rarely("no heartbeat", f"this node's heartbeat cannot be sent: {error}")
                    return
                # Some of the engines are better than none, and than silence, which means death.
                fewer = report.engines[: len(report.engines) * 9 // 10]
                in_flight = report.in_flight if report.engines else {}
                report = msgspec.structs.replace(report, engines=fewer, in_flight=in_flight)
                self._tell_rarely(
                    "too large", f"this node's report is too large, parts are left out: {error}"
                )

    def _send(self, to: Iterable[Address], payload: Payload) -> None:
        """Send one datagram to each address. Raises TooLarge."""
        if self._endpoint is None:
            return
        self._sequence += 1
        message = Message(self.settings.name, self._roster.incarnation, self._sequence, payload)
        datagram = self._codec.encode(message)
        for address in to:
            self._endpoint.send(datagram, address)
            self._counters["sent"] += 1

    # -- receiving ---------------------------------------------------------------------------------------------

    def _received(self, datagram: bytes, source: Address) -> None:
        if self._stopped:
            return  # an answer after the good-bye would look like a return
        self._counters["received"] += 1
        now = self._now()
        try:
            message = self._codec.decode(datagram)
        except WireError as error:
            self._refuse(error, source)
            return
        try:
            self._guard.check(message)
        except StaleIncarnation:
            self._counters["stale"] += 1
            self._apply(self._roster.stale(message, source, now))
        except Replay:
            self._counters["replayed"] += 1
        else:
            if isinstance(message.payload, Traffic):
                if message.sender != self.settings.name:
                    self._on_traffic(message.sender, message.payload)
                return
            own = self._own_report or self._report()
            self._apply(self._roster.receive(message, source, own, now))

    def _refuse(self, error: WireError, source: Address) -> None:
        where = format_address(source)
        match error:
            case WrongSecret():
                reason = "wrong_secret"
                sentence = f"heartbeats from {where} do not verify: its cluster.secret differs from ours"
            case WrongCluster():
                reason = "wrong_cluster"
                sentence = f"{where} sends heartbeats of another cluster: its cluster.name differs from ours"
            case WrongVersion():
                reason = "wrong_version"
                sentence = f"heartbeats from {where} cannot be read: {error}"
            case _:
                reason = "malformed"
                sentence = f"{where} sends datagrams that cannot be used: {error}; they are ignored"
        self._counters[reason] += 1
        # Sources of junk may be forged and many: one sentence for all of them. The others name a node to look at.
        self._tell_rarely(reason if reason == "malformed" else f"{reason} {where}", sentence)

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(sentence):
                    self._tell(sentence)
                case Send(to, payload):
                    self._send(to, payload)
                case SendHeartbeat(to):
                    self._send_heartbeat((to,))
                case Connect(target, address):
                    if target not in self._connecting and len(self._connecting) < _MAX_CONNECTS:
                        self._connecting.add(target)
                        self._spawn(self._connect(target, address))

    async def _connect(self, target: str, address: Address) -> None:
        """Try a member's gateway. Shorter than the detector waits, so that a silent host counts as one."""
        reachable = False
        try:
            async with asyncio.timeout(0.8 * self.settings.timers.confirm_timeout):
                _, writer = await asyncio.open_connection(*address)
            reachable = True
            writer.close()
        except (OSError, TimeoutError):
            reachable = False
        finally:
            self._connecting.discard(target)
        self._apply(self._roster.connected(target, reachable, self._now()))

    # -- names, socket, news -----------------------------------------------------------------------------------

    async def _open(self) -> Resolver:
        if self._stopped:
            raise RuntimeError("a membership lives once: it was stopped")
        if self._resolver is None:
            self._report()  # a report that cannot be made at all is a bug to be seen at once
            self._endpoint = await Endpoint.open(
                self.settings.bind, self.settings.port, self._received, self._lost
            )
            self._resolver = Resolver(self._endpoint.family, self._greet, self._tell)
            for contact in self._roster.book.contacts.values():
                self._resolver.add(contact)
        return self._resolver

    def _lost(self) -> None:
        self._tell("the socket for heartbeats broke; it is opened again")
        self._spawn(self._reopen())

    async def _reopen(self) -> None:
        while True:
            try:
                self._endpoint = await Endpoint.open(
                    self.settings.bind, self.settings.port, self._received, self._lost, self._quic
                )
                return
            except BindError as error:
                self._tell_rarely("reopen", str(error))
                await asyncio.sleep(_REOPEN_EVERY)

    def _greet(self, contact: Contact) -> None:
        if self._roster.joined and contact.addresses:
            self._send_heartbeat(contact.addresses)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, sentence: str) -> None:
        """Pass a sentence on, together with all others of this turn of the loop, and outside of our own work."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._publish)
        self._news.append(sentence)

    def _tell_rarely(self, key: str, sentence: str) -> None:
        if self._throttle.allow(key, self._now()):
            self._tell(sentence)

    def _publish(self) -> None:
        sentences, self._news = self._news, []
        self._on_change(self.view(), sentences)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
