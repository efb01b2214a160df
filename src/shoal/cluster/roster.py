"""The roster: what this node knows of the other members, and what it answers them. No I/O, no clock.

Authentic messages and the passing of time go in; effects come out: what to send to whom, which gateway port to try,
what to tell people. `shoal.cluster.membership` does the I/O, and tests run whole clusters of rosters without any.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from shoal.cluster.addresses import Address, AddressBook, Contact, format_address, is_loopback
from shoal.cluster.changes import disagreements, report_changes
from shoal.cluster.detector import Change, Detector, Forget, Inquire, Notice, Output, Timers
from shoal.cluster.identity import IdentityCheck
from shoal.cluster.throttle import Throttle
from shoal.cluster.view import Heard, Member, MemberState, NodeReport, View
from shoal.cluster.wire import Goodbye, Heartbeat, Hello, Message, Payload, ProbeReply, ProbeRequest, Traffic

MAX_MEMBERS: Final = 1024
"""Members beyond this are not taken in: far above what full-mesh heartbeats are for."""


class Send(msgspec.Struct, frozen=True):
    """Wanted: send this to each of these addresses."""

    to: tuple[Address, ...]
    payload: Payload


class SendHeartbeat(msgspec.Struct, frozen=True):
    """Wanted: send a heartbeat with a fresh report to this address at once."""

    to: Address


class Connect(msgspec.Struct, frozen=True):
    """Wanted: try a TCP connection to a member's gateway and report with `Roster.connected`."""

    target: str
    address: Address


class Tell(msgspec.Struct, frozen=True):
    """The view changed, or people should know something."""

    sentence: str


Effect = Send | SendHeartbeat | Connect | Tell


class _Record(msgspec.Struct):
    """What is kept of a member beside the detector's judgement."""

    report: NodeReport | None = None
    incarnation: int = 0
    sequence: int = -1
    disagreements: tuple[str, ...] = ()


class Roster:
    """All members as one node knows them."""

    def __init__(
        self,
        me: str,
        incarnation: int,
        timers: Timers,
        peers: Iterable[tuple[str, int]],
        rng: random.Random | None = None,
    ) -> None:
        """Begin with the peers of the file, none of them heard yet. `rng` chooses whom to ask about a suspect."""
        self.me = me
        self.incarnation = incarnation
        self.timers = timers
        self.book = AddressBook()
        self.detector = Detector(timers, rng)
        self.check: IdentityCheck | None = None
        self.joined = False
        self._records: dict[str, _Record] = {}
        self._asking: dict[str, set[Address]] = {}
        self._throttle = Throttle()
        for host, port in peers:
            if f"{host}:{port}" != me:
                self.expect(host, port)

    def expect(self, host: str, port: int) -> Contact:
        """Count a node as a member from now on, heard or not."""
        name = f"{host}:{port}"
        self.detector.expect(name)
        self._records.setdefault(name, _Record())
        return self.book.add(host, port)

    def dismiss(self, name: str) -> None:
        """Count a node as a member only for as long as it is heard, and some time after."""
        self.detector.dismiss(name)
        self.book.dismiss(name)

    def join(self, now: float) -> None:
        """Begin to take part: answer others, greet them, judge them."""
        self.joined = True
        self.detector.resume(now)

    # -- what is known -----------------------------------------------------------------------------------------

    def heartbeat(self, report: NodeReport, now: float) -> Heartbeat:
        """Return `report` as a heartbeat: with name, incarnation and what was heard of others filled in."""
        heard = {}
        for name, record in self._records.items():
            age = self.detector.age(name, now)
            if age is not None:
                gone = self.detector.state(name) is MemberState.LEFT
                host, port = self.book.seen(name) or ("", 0)
                heard[name] = Heard(record.incarnation, None if gone else round(age * 1000), host, port)
        stamped = msgspec.structs.replace(report, name=self.me, incarnation=self.incarnation, heard=heard)
        return Heartbeat(stamped)

    def targets(self, now: float) -> set[Address]:
        """Return every address a heartbeat for all goes to."""
        heard = [
            n for n in self._records if self.detector.state(n) is MemberState.ALIVE and self.book.seen(n)
        ]
        return self.book.everybody(heard, now, rumours_for=2 * self.timers.dead_silence)

    def alive(self) -> tuple[Address, ...]:
        """Return where each member that lives was last heard from."""
        names = (name for name in self._records if self.detector.state(name) is MemberState.ALIVE)
        return tuple(address for name in names if (address := self.book.seen(name)) is not None)

    def view(self, own: NodeReport, now: float) -> View:
        """Return the snapshot of this moment; `own` is this node's report."""
        members = [Member(name=self.me, state=MemberState.ALIVE, age=0.0, report=own, is_self=True)]
        for name, record in self._records.items():
            state = self.detector.state(name) or MemberState.UNKNOWN
            members.append(
                Member(name=name, state=state, age=self.detector.age(name, now), report=record.report)
            )
        members.sort(key=lambda member: member.name)
        return View(me=self.me, members=tuple(members), isolated=self.detector.isolated)

    # -- what happens ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Let time pass; to be called no later than `detector.due`."""
        return self._effects(self.detector.tick(now))

    def connected(self, target: str, reachable: bool, now: float) -> list[Effect]:
        """Take note of the outcome of a `Connect`."""
        effects = self._effects(self.detector.probed(target, None, reachable, now))
        asking = self._asking.pop(target, None)
        if asking:
            effects.append(Send(tuple(sorted(asking)), self._reply(target, reachable, now)))
        return effects

    def receive(self, message: Message, source: Address, own: NodeReport, now: float) -> list[Effect]:
        """Take an authentic message in; `own` is this node's report, to compare with."""
        if message.sender == self.me:
            return self._namesake(message, source, now)
        match message.payload:
            case Hello():
                return [SendHeartbeat(source)] if self.joined else []
            case Heartbeat(report):
                return self._heartbeat(message, report, source, own, now)
            case Goodbye():
                return self._goodbye(message, now)
            case ProbeRequest(target):
                return self._probe(target, source, now)
            case ProbeReply(target, incarnation, age, reachable):
                if age is not None:
                    self.detector.heard_by(target, message.sender, incarnation, age / 1000, now)
                if reachable is None:
                    return []
                return self._effects(self.detector.probed(target, message.sender, reachable, now))
            case Traffic():
                return []  # nothing about members

    def stale(self, message: Message, source: Address, now: float) -> list[Effect]:
        """Take note of a fresh datagram of a process whose successor was heard: two processes share a name."""
        seen = self.book.seen(message.sender)
        if message.sender == self.me or seen is None or not isinstance(message.payload, Heartbeat):
            return []
        return self._tell_rarely(
            f"two processes send as node {message.sender}: one at {format_address(seen)}, and one at "
            f"{format_address(source)} that began earlier ({_clock(message.incarnation)}) and is ignored; stop one",
            f"two as {message.sender}",
            now,
        )

    def _heartbeat(
        self, message: Message, report: NodeReport, source: Address, own: NodeReport, now: float
    ) -> list[Effect]:
        name, record = message.sender, self._records.get(message.sender)
        if record is None:
            if len(self._records) >= MAX_MEMBERS:
                return self._tell_rarely(
                    f"{name} cannot join: {MAX_MEMBERS} members are the most", "full", now
                )
            record = self._records[name] = _Record()
        if (message.incarnation, message.sequence) <= (record.incarnation, record.sequence):
            return []  # overtaken by a newer one on the way: what it says is old, also that it lives
        changes = self.detector.heard(name, message.incarnation, now)
        effects: list[Effect] = self._effects(changes)
        if changes and self.joined:
            effects.append(SendHeartbeat(source))  # it should not have to wait for our next one
        before = self.book.saw(name, source)
        if before is not None and message.incarnation == record.incarnation:
            where = f"{format_address(source)} now (was {format_address(before)})"
            effects += self._tell_rarely(f"node {name} is heard from {where}", f"moved {name}", now)
        if record.report is not None:
            effects += [Tell(sentence) for sentence in report_changes(record.report, report)]
        differences = tuple(disagreements(own, report))
        effects += [Tell(sentence) for sentence in differences if sentence not in record.disagreements]
        record.disagreements = differences
        record.report, record.incarnation, record.sequence = report, message.incarnation, message.sequence
        return effects + self._hearsay(name, report, source, now)

    def _hearsay(self, witness: str, report: NodeReport, source: Address, now: float) -> list[Effect]:
        """Use what another member has heard: of others, and of us."""
        for name, heard in report.heard.items():
            if name == self.me or heard.age is None:
                continue
            if name in self._records:
                self.detector.heard_by(name, witness, heard.incarnation, heard.age / 1000, now)
            elif heard.age / 1000 < self.timers.suspect_silence and _usable(heard, source):
                self.book.rumour(name, (heard.host, heard.port), now)
        of_me = report.heard.get(self.me)
        if self.check is not None:
            self.check.answered(witness, of_me, now)
        if of_me is None or not self.joined or of_me.incarnation <= self.incarnation:
            return []
        if of_me.age is None or of_me.age / 1000 >= self.timers.dead_silence:
            self.incarnation = of_me.incarnation + 1
            return [
                Tell(f"this machine's clock went back: {witness} knew a newer start of this node; corrected")
            ]
        return self._tell_namesake((of_me.host, of_me.port), of_me.incarnation, now)

    def _goodbye(self, message: Message, now: float) -> list[Effect]:
        record = self._records.get(message.sender)
        if record is None or message.incarnation < record.incarnation:
            return []
        record.incarnation, record.sequence = message.incarnation, message.sequence
        return self._effects(self.detector.left(message.sender, now))

    def _probe(self, target: str, source: Address, now: float) -> list[Effect]:
        if not self.joined or target == self.me:
            return []
        effects: list[Effect] = [Send((source,), self._reply(target, None, now))]
        age, address = self.detector.age(target, now), self.book.gateway(target)
        if (age is None or age >= self.timers.suspect_silence) and address is not None:
            self._asking.setdefault(target, set()).add(source)
            effects.append(Connect(target, address))
        return effects

    def _reply(self, target: str, reachable: bool | None, now: float) -> ProbeReply:
        age = self.detector.age(target, now)
        if age is None or self.detector.state(target) is MemberState.LEFT:
            return ProbeReply(target, reachable=reachable)
        return ProbeReply(target, self.detector.incarnation(target), round(age * 1000), reachable)

    # -- two processes, one name -------------------------------------------------------------------------------

    def _namesake(self, message: Message, source: Address, now: float) -> list[Effect]:
        """Handle a message that carries our own name: an echo of ours, or another process.

        The running process stays and answers, so that the one that starts learns it from us and gives way.
        """
        if message.incarnation == self.incarnation:
            return []
        hello = isinstance(message.payload, Hello)
        if self.check is not None and not self.joined:
            # Of two that start at once and ask each other, the one that began later gives way.
            if not hello or message.incarnation < self.incarnation:
                self.check.met(message.incarnation, source, now)
            return []
        if not hello:
            return self._tell_namesake(source, message.incarnation, now)
        return [
            SendHeartbeat(source),
            *self._tell_rarely(
                f"a process at {format_address(source)} wants to be node {self.me} as well; this one stays",
                "asks for our name",
                now,
            ),
        ]

    def _tell_namesake(self, source: Address, incarnation: int, now: float) -> list[Effect]:
        return self._tell_rarely(
            f"two processes run as node {self.me}: this one ({_clock(self.incarnation)}), and one at "
            f"{format_address(source)} ({_clock(incarnation)}); stop one of them",
            "our name",
            now,
        )

    # -- helpers -----------------------------------------------------------------------------------------------

    def _effects(self, outputs: Iterable[Output]) -> list[Effect]:
        effects: list[Effect] = []
        for output in outputs:
            match output:
                case Change(sentence=sentence) | Notice(sentence=sentence):
                    effects.append(Tell(sentence))
                case Forget(name, sentence):
                    del self._records[name]
                    self.book.forget(name)
                    effects.append(Tell(sentence))
                case Inquire():
                    effects += self._inquire(output)
        return effects

    def _inquire(self, wanted: Inquire) -> list[Effect]:
        peers = tuple(address for peer in wanted.peers for address in self.book.of(peer)[:1])
        effects: list[Effect] = [
            Send(self.book.of(wanted.target), Hello()),
            Send(peers, ProbeRequest(wanted.target)),
        ]
        address = self.book.gateway(wanted.target)
        if wanted.connect and address is not None:
            effects.append(Connect(wanted.target, address))
        return effects

    def _tell_rarely(self, sentence: str, key: str, now: float) -> list[Effect]:
        return [Tell(sentence)] if self._throttle.allow(key, now) else []


def _usable(heard: Heard, source: Address) -> bool:
    """Whether an address told by another member means the same here: its loopback is not ours."""
    return bool(heard.host and heard.port) and is_loopback(heard.host) <= is_loopback(source[0])


def _clock(incarnation: int) -> str:
    return time.strftime("started %Y-%m-%d %H:%M:%S", time.localtime(incarnation / 1000))
