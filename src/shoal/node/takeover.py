"""Whether a standby node takes over for a lost node, and when it gives back. No I/O, no clock of its own.

Nothing needs a quorum. Every standby node decides from its own view, and says in its heartbeats for whom it stands in
(`NodeReport.covers`). They keep out of each other's way by taking turns: the standby nodes that are free stand in line,
hot ones first, then by name, and each place in the line waits `_TURN` longer, in which the announcement of the one
before arrives. One that does not act when it is its turn (it may see itself cut off) is so passed over. Those that have
just become free, perhaps several at the same moment, stand in line from then on. Where two took
over for the same node nevertheless, because neither heard the other, the one with the higher name lets go when they
hear each other again. Until then a split costs duplicate work, never state.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shoal.cluster.view import EngineState, Member, MemberState, SeatReport, SeatState, View, full_id
from shoal.config.schema import Config

_PRESENT = (MemberState.ALIVE, MemberState.SUSPECT)


class Cover(msgspec.Struct, frozen=True):
    """Stand in for `node` from now on; `reason` is the sentence that says why."""

    node: str
    reason: str


class Release(msgspec.Struct, frozen=True):
    """Stand in for `node` no longer; `reason` is the sentence that says why."""

    node: str
    reason: str


class Takeover:
    """Decides for one standby node.

    A serving node is lost when it is dead and its engines do not answer, when it left (a node that is stopped on
    purpose does not serve either), or when nobody ever heard of it in the time that an engine has to start. Members
    that are only suspected are not lost, and while this node counts itself cut off (`View.isolated`) nobody is.

    Attributes:
        covers: name of the node it stands in for, "" for none.

    Args (of the constructor):
        config: the configuration.
        me: name of this node.
        covers: the node it stood in for when its process ended, to go on with; "" for none.
    """

    def __init__(self, config: Config, me: str, covers: str = "") -> None:
        self.covers = covers
        self._me = me
        self._takeover_after = config.recovery.takeover_after
        self._return_after = config.recovery.return_after
        self._first_seen_within = config.engines.start_timeout
        self._turn = 2 * config.cluster.heartbeat_interval
        self._serving = [n.name for n in config.nodes if config.models_of(n)]
        standbys = [n for n in config.nodes if n.role == "standby"]
        self._line = [n.name for n in sorted(standbys, key=lambda n: (not n.is_hot, n.name))]
        self._lost_since: dict[str, float] = {}
        self._back_since: float | None = None
        self._free_since = float("-inf")

    def decide(
        self, view: View, answers: Mapping[str, bool], now: float, lifelines: Mapping[str, bool] | None = None
    ) -> Cover | Release | None:
        """Look at the cluster; return what this node has to do, already entered in `covers`.

        Args:
            view: members, their states and reports.
            answers: whether engines of members that are not alive answer this node's own probes, by full id.
            now: seconds on any steady clock.
            lifelines: whether the processes of such members' parts of engines across nodes can be connected to.
        """
        answers = {**answers, **_parts_in_service(view, lifelines or {})}
        self._note_losses(view, answers, now)
        decision = self._release(view, now) if self.covers else self._cover(view, answers, now)
        if decision is not None:
            self.covers = decision.node if isinstance(decision, Cover) else ""
            self._back_since = None
            self._free_since = now
        return decision

    # -- taking over

    def _note_losses(self, view: View, answers: Mapping[str, bool], now: float) -> None:
        for name in self._serving:
            member = view.member(name)
            if member is not None and not view.isolated and _lost(member, view, answers):
                self._lost_since.setdefault(name, now)
            else:
                self._lost_since.pop(name, None)

    def _cover(self, view: View, answers: Mapping[str, bool], now: float) -> Cover | None:
        others = [m for m in view.members if m.name != self._me and m.report is not None]
        covered = {_covers(m) for m in others if _in_service(m, answers)}
        place = self._place_in_line(view)
        # The others have to hear that this one is free, and it of them, before places in the line mean anything.
        heard = self._free_since + self._turn
        for name in sorted(self._lost_since.keys() - covered):
            member, silent = view.member(name), now - self._lost_since[name]
            unheard = member is None or member.state is MemberState.UNKNOWN
            patience = self._first_seen_within if unheard else self._takeover_after
            if now - max(self._lost_since[name] + patience, heard) >= place * self._turn:
                how = "was never heard of" if unheard else "left" if _left(member) else "is dead"
                return Cover(
                    name,
                    f"standby {self._me} takes over for {name}: that node {how}, {silent:.0f} s by now",
                )
        return None

    def _place_in_line(self, view: View) -> int:
        """Return how many free standby nodes come before this one."""
        before = self._line[: self._line.index(self._me)]
        members = [m for name in before if (m := view.member(name)) is not None]
        return sum(m.state is MemberState.ALIVE and not _covers(m) and not _draining(m) for m in members)

    # -- giving back

    def _release(self, view: View, now: float) -> Release | None:
        node = self.covers
        if node not in self._serving:
            return Release(node, f"standby {self._me} lets go of {node}: it is no serving node of the file")
        for other in view.members:
            rival = other.state is MemberState.ALIVE and not _draining(other) and _covers(other) == node
            if rival and other.name < self._me:
                return Release(
                    node, f"standby {self._me} lets go of {node}: {other.name} takes over for it too"
                )
        member = view.member(node)
        if member is None or not _serves(member, view):
            self._back_since = None
            return None
        if self._back_since is None:
            self._back_since = now
        if now - self._back_since < self._return_after:
            return None
        return Release(
            node,
            f"standby {self._me} gives back to {node}: that node is back and has been ready for "
            f"{now - self._back_since:.0f} s",
        )


def _lost(member: Member, view: View, answers: Mapping[str, bool]) -> bool:
    if member.state is MemberState.UNKNOWN:
        return not _mostly_unheard(view)
    return member.state not in _PRESENT and not _in_service(member, answers)


def _mostly_unheard(view: View) -> bool:
    """Return whether this node hears so few that it may be the one that is cut off.

    The brake knows only members that vanished. This is the same question about those that were never there.
    """
    others = [m for m in view.members if m.name != view.me and m.state is not MemberState.LEFT]
    present = sum(m.state is MemberState.ALIVE for m in others)
    missing = len(others) - present
    return missing >= 2 and missing > present


def _in_service(member: Member, answers: Mapping[str, bool]) -> bool:
    """Return whether a member does its work: it is there, or only its process died and all its engines serve on."""
    if member.state in _PRESENT:
        return not _draining(member)
    if member.state is not MemberState.DEAD or member.report is None:
        return False
    owed = [full_id(member.name, e.id) for e in member.report.engines if e.state is EngineState.READY]
    owed += [_part_id(member.name, s) for s in member.report.seats if s.state is SeatState.RUNNING]
    return bool(owed) and all(answers.get(name, False) for name in owed)


def _part_id(node: str, seat: SeatReport) -> str:
    return f"{full_id(node, seat.engine)} generation {seat.generation}"


def _parts_in_service(view: View, lifelines: Mapping[str, bool]) -> dict[str, bool]:
    """Return whether members' parts of engines across nodes do their work: their process lives, and the engine does."""
    found = {}
    for member in view.members:
        for seat in member.report.seats if member.report is not None else ():
            led = view.seat(seat.leader, seat.engine)
            lives = led is not None and led.offer is not None and led.offer.generation == seat.generation
            found[_part_id(member.name, seat)] = lives and lifelines.get(
                full_id(member.name, seat.engine), False
            )
    return found


def _serves(member: Member, view: View) -> bool:
    """Return whether a member is there with all its engines ready, those across nodes included."""
    if member.state is not MemberState.ALIVE or member.report is None or _draining(member):
        return False
    engines, seats = member.report.engines, member.report.seats
    ready = all(e.state is EngineState.READY for e in engines)
    return bool(engines or seats) and ready and all(_led_ready(s, view) for s in seats)


def _led_ready(seat: SeatReport, view: View) -> bool:
    leader = view.member(seat.leader)
    engines = leader.report.engines if leader is not None and leader.report is not None else ()
    ready = any(e.id == seat.engine and e.state is EngineState.READY for e in engines)
    return seat.state is SeatState.RUNNING and ready


def _covers(member: Member) -> str:
    return member.report.covers if member.report is not None else ""


def _draining(member: Member) -> bool:
    return member.report is not None and (member.report.draining or member.report.drained)


def _left(member: Member | None) -> bool:
    return member is not None and member.state is MemberState.LEFT
