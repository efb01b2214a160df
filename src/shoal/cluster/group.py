"""Engines that span nodes: how the nodes form one, keep it up and end it as one. No I/O, no clock of its own.

Such an engine is a *group*: one vLLM process on each of several nodes. It lives in *generations*, each started by all
of its members and ended by all of them; nothing of one is left when the next begins. Every node decides for itself,
from what the others say in their heartbeats (`NodeReport.seats`), so there are no messages that could be lost for good:

1. The node that holds the first place of the group leads it. When all others that hold a place are there, free and
   alike, it offers a generation with a number that none of them has seen.
2. A member joins if it is free and the number is higher than all it has joined before. It says so, and waits.
3. When all have joined, the leader writes down what they joined with (their tokens): that is the sign to start.
4. The generation lives as long as each member says that it is in it, or, while its node process is gone, for as long as
   its process can be connected to (its lifeline, see `shoal.node.lifelines`). Whoever sees that this is not so, leader
   or not, ends its own process and says why; so do all that hear of it.
5. A member is free again when its processes and their memory are gone.

The place of a node that is lost is held by the standby node that stands in for it (`NodeReport.covers`). When that node
is back, it takes its place in the next generation; the one that runs is not ended for it.

A node is in one generation at a time, so two live generations never share one. A split may give two of them without a
common node: that costs duplicate work, as everywhere in Shoal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from shoal.cluster.group_types import GroupTimers, Here, Place
from shoal.cluster.view import Member, MemberState, Offer, SeatReport, SeatState, View, full_id

_PRESENT = (MemberState.ALIVE, MemberState.SUSPECT)


class Seat:
    """This node's part in one group.

    Attributes:
        place: which part.
        state: what is done with it.
        generation: the newest that was joined.
        offer: the generation this node leads, None if it leads none.
        reason: why the last generation ended; a sentence without the group's name.
        waits: what is being waited for before the next, likewise.
        failures: generations that ended by a failure, since one was healthy. Counted by the leader.

    Args (of the constructor):
        me: name of this node.
        place: which part.
        timers: see there.
        now: seconds on any steady clock, as in `step`.
        generation: the newest that was joined by an earlier process of this node.
    """

    def __init__(self, me: str, place: Place, timers: GroupTimers, now: float, generation: int = 0) -> None:
        self.place = place
        self.state = SeatState.FREE
        self.generation = generation
        self.offer: Offer | None = None
        self.reason = ""
        self.waits = ""
        self.failures = 0
        self._me = me
        self._timers = timers
        self._began = now
        self._leader = ""
        self._token = 0
        self._terms: Offer | None = None
        self._started = False
        self._ready_since: float | None = None
        self._drained = ""
        self._deadline = 0.0
        self._not_before = 0.0

    def resume(self, terms: Offer, token: int) -> None:
        """Go on in a generation whose process an earlier process of this node has started.

        Args:
            terms: the generation, with tokens.
            token: what this node joined it with.
        """
        self.state, self.generation, self._token = SeatState.RUNNING, terms.generation, token
        self._leader, self._terms, self._started = terms.members[0], terms, True
        self.offer = terms if self._leader == self._me else None

    @property
    def terms(self) -> Offer | None:
        """The generation whose process should run here now, None if none should."""
        return self._terms if self.state is SeatState.RUNNING else None

    @property
    def token(self) -> int:
        """What this node joined its generation with."""
        return self._token

    @property
    def drains(self) -> bool:
        """Whether the engine should finish what it runs and end: a member leaves, or nobody wants it any more.

        Only its leader says so.
        """
        return self.state is SeatState.RUNNING and bool(self._drained)

    def report(self, host: str = "", lifeline: int = 0) -> SeatReport:
        """Return what the other nodes are told; arguments as in `SeatReport`."""
        return SeatReport(
            engine=self.place.engine,
            group=self.place.group,
            model=self.place.model,
            rank=self.place.rank,
            state=self.state,
            generation=self.generation,
            leader=self._leader,
            token=self._token,
            offer=self.offer,
            reason=self.reason,
            waits=self.waits,
            host=host,
            lifeline=lifeline,
            traits=dict(self.place.traits),
        )

    def step(self, view: View, here: Here, lifelines: Mapping[str, bool], now: float) -> list[str]:
        """Look at the cluster and at this node; return a sentence for each thing that was decided.

        Args:
            view: members and what they say.
            here: this node.
            lifelines: whether the processes of members that are not alive can be connected to, by full id.
            now: seconds on any steady clock.
        """
        self._began = min(self._began, now)
        said: list[str] = []
        if self.state is SeatState.RUNNING:
            said += self._keep(view, here, lifelines, now)
        if self.state is SeatState.JOINED:
            said += self._gather(view, here, now) if self.offer else self._await_sign(view, here)
        if here.running and self.state in (SeatState.FREE, SeatState.JOINED):
            # What runs here belongs to no generation that this node is in.
            self.state, self.offer = SeatState.ENDING, None
        if self.state is SeatState.ENDING and not here.running:
            self.state = SeatState.FREE
        if self.state is SeatState.FREE and not here.leaving:
            said += self._join(view) or self._lead(view, here, now)
        return said

    # -- a generation that lives

    def _keep(self, view: View, here: Here, lifelines: Mapping[str, bool], now: float) -> list[str]:
        assert self._terms is not None
        self._started = self._started or bool(here.running)
        if here.ready:
            self._ready_since = self._ready_since if self._ready_since is not None else now
        if self.offer is not None and not self._drained:
            leaving = (m for m in self._terms.members if m != self._me and _draining(view.member(m)))
            over = "it is not wanted any more" if here.unwanted else ""
            self._drained = next((f"node {m} leaves" for m in leaving), over)
        if here.exit is not None:
            return self._end(f"its process on {self._me} {here.exit}", here, now)
        if self._started and not here.running:
            return self._end(
                self._drained or f"its process on {self._me} was stopped", here, now, fault=False
            )
        if here.changed:
            return self._end(f"its configuration on {self._me} has changed", here, now, fault=False)
        trouble = next(self._troubles(view, lifelines, now), None)
        return self._end(trouble, here, now) if trouble is not None else []

    def _troubles(self, view: View, lifelines: Mapping[str, bool], now: float) -> Iterator[str]:
        """Yield why the generation cannot go on, by what the other members say or do not say."""
        terms = self._terms
        assert terms is not None
        for name, token in zip(terms.members, terms.tokens, strict=True):
            if name == self._me:
                continue
            member = view.member(name)
            if member is None or member.state is MemberState.LEFT:
                yield f"node {name} has left"
            elif member.state is MemberState.UNKNOWN:
                if now - self._began >= self._timers.grace:
                    yield f"node {name} was not heard of for {now - self._began:.0f} s"
            elif member.state is MemberState.DEAD:
                if lifelines.get(full_id(name, self.place.engine)) is False:
                    yield f"node {name} is dead and its process cannot be reached"
            elif (trouble := self._not_in_it(view, name, token)) is not None:
                yield trouble

    def _not_in_it(self, view: View, name: str, token: int) -> str | None:
        """Return why a member that is there is not in the generation any more, None if it is (or not heard to be)."""
        seat = view.seat(name, self.place.engine)
        # A leader has joined before it offers anything, and knows that the others have. To the others their joining
        # may not have come through yet.
        certain = self.offer is not None or name == self._leader
        if seat is None or seat.group != self.place.group:
            return f"node {name} has given up its place" if certain else None
        if (seat.generation, seat.leader, seat.token) != (self.generation, self._leader, token):
            certain = certain or seat.generation >= self.generation
            return f"node {name} has lost its process and begun anew" if certain else None
        if seat.state not in (SeatState.JOINED, SeatState.RUNNING):
            return seat.reason or f"node {name} has ended it"
        if name == self._leader and (seat.offer is None or seat.offer.generation != self.generation):
            return seat.reason or f"its leader {name} has ended it"
        return None

    def _end(self, reason: str, here: Here, now: float, fault: bool = True) -> list[str]:
        healthy = self._ready_since is not None and now - self._ready_since >= self._timers.healthy_after
        failed = fault and not self._drained
        self.failures = (0 if healthy else self.failures) + failed
        self._not_before = now + (self._timers.delay(self.failures) if failed else 0.0)
        self.state = SeatState.ENDING if here.running else SeatState.FREE
        self.reason, self.offer, self._ready_since, self._drained = reason, None, None, ""
        return [f"group {self.place.group}: generation {self.generation} has ended: {reason}"]

    # -- joining

    def _join(self, view: View) -> list[str]:
        """Join the highest generation that is offered to this place, if it is higher than all before."""
        offers = [
            seat.offer
            for member in view.members
            if member.state in _PRESENT and member.report is not None and not member.is_self
            for seat in member.report.seats
            if seat.group == self.place.group
            and seat.offer is not None
            and not seat.offer.tokens  # one that has been started has all its members
            and seat.offer.members[0] == member.name
            and self._is_mine(seat.offer)
            and seat.offer.generation > self.generation
        ]
        if not offers:
            return []
        self._promise(max(offers, key=lambda o: o.generation), view)
        return [f"group {self.place.group}: node {self._me} joins generation {self.generation}"]

    def _is_mine(self, offer: Offer) -> bool:
        return len(offer.members) == len(self.place.nodes) and offer.members[self.place.rank] == self._me

    def _promise(self, offer: Offer, view: View) -> None:
        member = view.member(self._me)
        self._token = member.report.incarnation if member is not None and member.report is not None else 0
        self.state, self.generation, self._leader = SeatState.JOINED, offer.generation, offer.members[0]
        self._started, self.waits = False, "the others have to join"

    def _await_sign(self, view: View, here: Here) -> list[str]:
        """As a member that has joined: start when the leader says so, go when it does not any more."""
        member, seat = view.member(self._leader), view.seat(self._leader, self.place.engine)
        offer = seat.offer if seat is not None else None
        there = member is not None and member.state in _PRESENT
        if not there or here.leaving or offer is None or offer.generation != self.generation:
            self.state, self.waits = SeatState.FREE, ""
            self.reason = f"generation {self.generation} was not started"
        elif offer.tokens:
            if offer.tokens[self.place.rank] != self._token:
                self.state, self.waits = SeatState.FREE, ""
                self.reason = f"generation {self.generation} was started without it"
            else:
                self.state, self._terms, self.reason, self.waits = SeatState.RUNNING, offer, "", ""
        return []

    # -- leading

    def _lead(self, view: View, here: Here, now: float) -> list[str]:
        """Offer a generation if this node leads, all members are there, and the time has come."""
        if self.place.rank != 0:
            return []
        holders = [holder(view, self.place, rank) for rank in range(len(self.place.nodes))]
        if holders[0] is None or holders[0].name != self._me:
            return self._wait(f"{self.place.nodes[0]} leads" if holders[0] else "this node is not known yet")
        obstacle = next(self._obstacles(view, holders), None)
        if obstacle is not None:
            return self._wait(obstacle)
        if now < self._not_before:
            self.waits = ""
            return []
        if here.meeting is None:
            return self._wait(f"no free port on {self._me}")
        members = tuple(m.name for m in holders if m is not None)
        seen = [s.generation for m in view.members if m.report for s in m.report.seats if self._same(s)]
        self.offer = Offer(
            generation=1 + max(self.generation, *seen),
            members=members,
            host=here.meeting.host,
            port=here.meeting.port,
            rpc_port=here.meeting.rpc_port,
        )
        self._promise(self.offer, view)
        self._deadline = now + self._timers.join
        return [
            f"group {self.place.group}: node {self._me} offers generation {self.generation} to {', '.join(members[1:])}"
        ]

    def _same(self, seat: SeatReport) -> bool:
        return seat.group == self.place.group

    def _obstacles(self, view: View, holders: list[Member | None]) -> Iterator[str]:
        """Yield what stands against a new generation, most telling first."""
        mine = view.member(self._me)
        for node, member in zip(self.place.nodes, holders, strict=True):
            if member is None:
                yield f"waits for node {node}: {_absence(view.member(node))}"
        names = {m.name for m in holders if m is not None}
        for member in view.members:
            seat = view.seat(member.name, self.place.engine)
            if seat is None or not self._same(seat) or member.is_self or member.state not in _PRESENT:
                continue
            last = self._terms is not None and member.name in self._terms.members
            if (member.name in names or last) and seat.state is not SeatState.FREE:
                yield f"waits for node {member.name}: generation {seat.generation} is {seat.state} there"
        for member in holders:
            seat = view.seat(member.name, self.place.engine) if member is not None else None
            if member is None or seat is None or member.name == self._me:
                continue
            if mine and mine.report and member.report and mine.report.version != member.report.version:
                yield (
                    f"versions differ: {member.name} runs Shoal {member.report.version}, "
                    f"{self._me} runs {mine.report.version}"
                )
            for trait, value in self.place.traits.items():
                if (other := seat.traits.get(trait, "none")) != value:
                    yield f"{trait} must be the same on all members: {value} on {self._me}, {other} on {member.name}"

    def _wait(self, reason: str) -> list[str]:
        if self.waits == reason:
            return []
        self.waits = reason
        return [f"group {self.place.group}: {reason}"]

    def _gather(self, view: View, here: Here, now: float) -> list[str]:
        """As a leader whose offer stands: give the sign when all have joined, withdraw if one does not."""
        assert self.offer is not None
        tokens: dict[str, int] = {self._me: self._token}
        for name in self.offer.members[1:]:
            member, seat = view.member(name), view.seat(name, self.place.engine)
            if member is None or member.state not in _PRESENT or _draining(member) or seat is None:
                return self._withdraw(f"node {name} is not there any more", now)
            if (seat.generation, seat.leader, seat.state) == (self.generation, self._me, SeatState.JOINED):
                tokens[name] = seat.token
            elif seat.generation >= self.generation:
                return self._withdraw(f"node {name} did not join: {seat.reason or 'it is in another'}", now)
        if here.leaving:
            return self._withdraw(f"node {self._me} leaves", now)
        if len(tokens) < len(self.offer.members):
            if now < self._deadline:
                return []
            late = ", ".join(name for name in self.offer.members if name not in tokens)
            return self._withdraw(f"{late} did not join within {self._timers.join:g} s", now)
        ordered = tuple(tokens[name] for name in self.offer.members)
        self.offer = self._terms = msgspec.structs.replace(self.offer, tokens=ordered)
        self.state, self.reason, self.waits = SeatState.RUNNING, "", ""
        members = ", ".join(self.offer.members)
        return [f"group {self.place.group}: generation {self.generation} starts on {members}"]

    def _withdraw(self, reason: str, now: float) -> list[str]:
        self.state, self.offer, self.reason, self.waits = SeatState.FREE, None, reason, ""
        self._not_before = now + self._timers.again
        return [f"group {self.place.group}: generation {self.generation} is not started: {reason}"]


def holder(view: View, place: Place, rank: int) -> Member | None:
    """Return the member that holds a place of a group now: the node of the file, or who stands in for it; or None."""
    node = place.nodes[rank]

    def holds(member: Member) -> bool:
        report = member.report
        if member.state is not MemberState.ALIVE or report is None or report.draining:
            return False
        return any((s.group, s.rank, s.engine) == (place.group, rank, place.engine) for s in report.seats)

    own = view.member(node)
    if own is not None and holds(own):
        return own
    return next((m for m in view.members if m.report and m.report.covers == node and holds(m)), None)


def _draining(member: Member | None) -> bool:
    return member is not None and member.report is not None and member.report.draining


def _absence(member: Member | None) -> str:
    """Return why a node does not hold its place."""
    if member is None or member.state is MemberState.UNKNOWN:
        return "it was not heard of yet"
    if member.state is MemberState.ALIVE:
        return "it leaves" if _draining(member) else "it has no place in this group by its own configuration"
    return f"it is {member.state}" if member.state is not MemberState.LEFT else "it has left"
