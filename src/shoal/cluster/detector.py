"""The failure detector: which members live, judged from events. No I/O and no clock of its own.

A member is ALIVE while its heartbeats come. After `suspect_after` missed ones it is SUSPECT: it is asked for a
heartbeat directly, other members are asked whether they hear it, and its gateway port is tried over TCP, again and
again for `confirm_timeout`. It is DEAD when by then nobody had a sign of life for `dead_silence`, or at once when
two members (or all, if there are fewer) and the TCP probe deny it. A sign of life that only others get (they hear it,
or its port answers) keeps it SUSPECT, but not for longer than `suspect_limit` after its last heartbeat here.

All that with one rule for time: a sign of life counts from the moment of the sign, not from that of the news about
it. So every member finds a node dead within `dead_silence` (1.9 s with the defaults) of the last heartbeat that
anybody got, plus two network delays, however many datagrams are lost.

What loss does to it. With 20 % of all packets lost at random a false death takes: 3 heartbeats lost (0.8 %), 4
direct questions or their answers lost (1.7 %), the TCP handshake lost (36 %) and, per other member asked, its 4
answers and its next heartbeat lost too (0.3 %). Simulated with the defaults that was 77 false deaths in 160 hours of
a cluster of two, and 1 in 150 hours of a cluster of three; each lasts until the next heartbeat. So: at 20 % loss one
in two hours, one in 6 days. Losses are rarely independent: bursts longer than `dead_silence` are a cut, and are
reported as one.

A pause of this node (stopped, starved, suspended) is no silence of the others. A tick that comes late judges
nothing; it is repeated after a moment in which waiting datagrams can be read, and after a long pause everybody gets
the time of one more heartbeat.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shoal.cluster.brake import Brake, Sign
from shoal.cluster.view import MemberState

_LATE: Final = 0.05
"""Seconds by which a tick may be late before it counts as a pause of this node."""
_EARLY: Final = 0.001
"""Timers of event loops have this resolution and may fire so much too soon."""
_PEERS_ASKED: Final = 2


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the failure detector, in seconds unless said otherwise.

    Attributes:
        interval: between two heartbeats.
        suspect_after: missed heartbeats that make a member suspect.
        confirm_timeout: time others and a TCP probe have to speak for it.
        leave_after: members that no file names are forgotten so long after they died or left.
    """

    interval: float = 0.5
    suspect_after: int = 3
    confirm_timeout: float = 0.4
    leave_after: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if min(self.interval, self.confirm_timeout, self.leave_after) <= 0 or self.suspect_after < 1:
            raise ValueError(f"every timer must be above zero: {self}")

    @property
    def suspect_silence(self) -> float:
        """Silence that makes a member suspect."""
        return self.interval * self.suspect_after

    @property
    def dead_silence(self) -> float:
        """Silence that makes a member dead when nobody speaks for it."""
        return self.suspect_silence + self.confirm_timeout

    @property
    def suspect_limit(self) -> float:
        """Silence that makes a member dead even if others speak for it."""
        return 5 * self.dead_silence


class Change(msgspec.Struct, frozen=True):
    """A member's state changed, or (`old` equal to `new`) its process was replaced by a newer one."""

    name: str
    old: MemberState
    new: MemberState
    sentence: str


class Inquire(msgspec.Struct, frozen=True):
    """Wanted: ask `target` for a heartbeat, ask `peers` about it, and with `connect` try its gateway port."""

    target: str
    peers: tuple[str, ...]
    connect: bool


class Forget(msgspec.Struct, frozen=True):
    """A member is no longer one."""

    name: str
    sentence: str


class Notice(msgspec.Struct, frozen=True):
    """Something people should know."""

    sentence: str


Output = Change | Inquire | Forget | Notice


@dataclass(slots=True)
class _Suspicion:
    next_round: float
    next_connect: float
    denied_by: set[str] = field(default_factory=set)
    refused: bool = False
    told_kept: bool = False


@dataclass(slots=True)
class _Track:
    name: str
    lasting: bool
    state: MemberState = MemberState.UNKNOWN
    since: float = -math.inf
    incarnation: int = 0
    heard_at: float = -math.inf
    sign_at: float = -math.inf
    witness: str = ""
    suspicion: _Suspicion | None = None


class Detector:
    """Judges the other members of one node.

    Times are seconds of one steady clock, the caller's. `tick` must be called no later than `due` says.
    """

    def __init__(self, timers: Timers, rng: random.Random | None = None) -> None:
        """Begin with nobody. `rng` chooses whom to ask about a suspect."""
        self.timers = timers
        self._rng = rng or random.Random()
        self._tracks: dict[str, _Track] = {}
        self._brake = Brake(timers.interval, timers.dead_silence)
        self._due = math.inf
        self._rechecking = False
        self._grace = -math.inf

    @property
    def isolated(self) -> bool:
        """Whether this node is probably the one that is cut off."""
        return self._brake.isolated

    @property
    def due(self) -> float:
        """When `tick` wants to be called next, at the latest."""
        return self._due

    def names(self) -> Iterator[str]:
        """Yield the names of all members known."""
        yield from self._tracks

    def state(self, name: str) -> MemberState | None:
        """Return a member's state, None if it is no member."""
        track = self._tracks.get(name)
        return None if track is None else track.state

    def age(self, name: str, now: float) -> float | None:
        """Return the seconds since a member was heard directly, None if it never was."""
        track = self._tracks.get(name)
        return None if track is None or track.heard_at == -math.inf else max(0.0, now - track.heard_at)

    def incarnation(self, name: str) -> int:
        """Return the newest incarnation heard of a member, 0 if none."""
        track = self._tracks.get(name)
        return track.incarnation if track else 0

    def expect(self, name: str) -> None:
        """Add a member that is named in the file: it is never forgotten."""
        self._tracks.setdefault(name, _Track(name, lasting=True)).lasting = True

    def dismiss(self, name: str) -> None:
        """Let a member be forgotten some time after it died or left: it is no longer one that is to be there."""
        track = self._tracks.get(name)
        if track is not None:
            track.lasting = False

    def resume(self, now: float) -> None:
        """Begin to judge at `now`, or begin again after a time without ticks."""
        self._grace = now + self.timers.interval
        self._schedule(now)

    # -- what happened -----------------------------------------------------------------------------------------

    def heard(self, name: str, incarnation: int, now: float) -> list[Output]:
        """Take note of a heartbeat. An older incarnation than the one known is no sign of life."""
        track = self._tracks.get(name)
        if track is None:
            track = self._tracks[name] = _Track(name, lasting=False)
        if incarnation < track.incarnation:
            return []
        old, silence, restarted = track.state, now - track.heard_at, incarnation > track.incarnation > 0
        track.incarnation = incarnation
        track.heard_at = track.sign_at = now
        track.witness, track.suspicion = "", None
        if old is MemberState.ALIVE and not restarted:
            return []
        track.state, track.since = MemberState.ALIVE, now
        if restarted:
            what = "restarted"
        elif old is MemberState.UNKNOWN:
            what = "is alive" if track.lasting else "joined"
        else:
            what = f"is alive again after {silence:.1f} s"
        return [Change(name, old, MemberState.ALIVE, f"node {name} {what}"), *self._release(now)]

    def heard_by(self, name: str, witness: str, incarnation: int, age: float, now: float) -> None:
        """Take note that another member heard `name` directly, `age` seconds ago."""
        track = self._tracks.get(name)
        if track is not None and incarnation >= track.incarnation:
            self._sign(track, f"{witness} hears it", min(now, now - age))

    def probed(self, name: str, witness: str | None, reachable: bool, now: float) -> list[Output]:
        """Take note of a TCP probe of `name` by another member, or by this node (`witness` None)."""
        track = self._tracks.get(name)
        if track is None or track.suspicion is None:
            return []
        if reachable:
            self._sign(track, "its gateway port still answers", now)
            return []
        if witness is None:
            track.suspicion.refused = True
        else:
            track.suspicion.denied_by.add(witness)
        if now >= track.sign_at + self.timers.suspect_silence and self._all_deny(track):
            return self._after_deaths([self._die(track, now)], now)
        return []

    def left(self, name: str, now: float) -> list[Output]:
        """Take note of a good-bye."""
        track = self._tracks.get(name)
        if track is None or track.state is MemberState.LEFT:
            return []
        old = track.state
        track.state, track.since, track.suspicion = MemberState.LEFT, now, None
        return [Change(name, old, MemberState.LEFT, f"node {name} left"), *self._release(now)]

    # -- time passes -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Output]:
        """Judge everybody at `now`."""
        late = now - self._due
        long = late > self.timers.interval
        if long or (late > _LATE and not self._rechecking):
            # A short delay is excused once in a row only: a node that is always busy must still find the dead.
            self._rechecking = True
            if long:
                self._grace = now + self.timers.interval
            self._due = now + _LATE
            return []
        self._rechecking = False
        out: list[Output] = []
        for track in list(self._tracks.values()):
            out += self._judge(track, now + _EARLY)
        out = self._after_deaths(out, now)
        self._schedule(now)
        return out

    def _judge(self, track: _Track, now: float) -> list[Output]:
        match track.state:
            case MemberState.ALIVE if now >= self._suspect_at(track):
                return self._suspect(track, now)
            case MemberState.SUSPECT if now >= self._dead_at(track):
                return [self._die(track, now)]
            case MemberState.SUSPECT:
                return self._confirm(track, now)
            case MemberState.UNKNOWN | MemberState.DEAD | MemberState.LEFT if now >= self._forget_at(track):
                del self._tracks[track.name]
                return [
                    Forget(track.name, f"node {track.name} is forgotten: gone for {now - track.since:.0f} s")
                ]
            case _:
                return []

    def _suspect(self, track: _Track, now: float) -> list[Output]:
        track.state, track.since = MemberState.SUSPECT, now
        track.suspicion = _Suspicion(next_round=now, next_connect=now)
        sentence = f"node {track.name} is suspect: no heartbeat for {now - track.heard_at:.1f} s"
        change = Change(track.name, MemberState.ALIVE, MemberState.SUSPECT, sentence)
        return [change, *self._confirm(track, now)]

    def _confirm(self, track: _Track, now: float) -> list[Output]:
        """Ask around, four times within `confirm_timeout`; then, if it is kept, once per interval."""
        suspicion, timers = track.suspicion, self.timers
        out: list[Output] = []
        if suspicion is None:
            return out
        if now >= track.heard_at + timers.dead_silence and not suspicion.told_kept and track.witness:
            suspicion.told_kept = True
            out.append(Notice(f"node {track.name} stays suspect: no heartbeat here, but {track.witness}"))
        if now >= suspicion.next_round:
            fresh = now < track.since + timers.confirm_timeout
            suspicion.next_round = now + (timers.confirm_timeout / 4 if fresh else timers.interval)
            connect = now >= suspicion.next_connect
            if connect:
                suspicion.next_connect = now + timers.interval
                suspicion.refused = False
                suspicion.denied_by.clear()
            peers = self._others(track)
            asked = tuple(self._rng.sample(peers, min(_PEERS_ASKED, len(peers))))
            out.append(Inquire(track.name, asked, connect))
        return out

    def _die(self, track: _Track, now: float) -> Change:
        silence, suspicion = now - track.heard_at, track.suspicion or _Suspicion(now, now)
        agree = []
        if suspicion.denied_by:
            agree.append(f"{len(suspicion.denied_by)} member{'s' * (len(suspicion.denied_by) > 1)}")
        if suspicion.refused:
            agree.append("a TCP probe")
        if now < track.sign_at + self.timers.suspect_silence:
            why = f"although {track.witness}: the way from it to this node is cut, or its node process hangs"
        elif agree:
            alone = len(agree) == 1 and len(suspicion.denied_by) < 2
            why = f"{' and '.join(agree)} agree{'s' * alone}"
        else:
            why = "and nobody answered for it"
        old, track.state, track.since, track.suspicion = track.state, MemberState.DEAD, now, None
        sentence = f"node {track.name} is dead: no heartbeat for {silence:.1f} s, {why}"
        return Change(track.name, old, MemberState.DEAD, sentence)

    # -- helpers -----------------------------------------------------------------------------------------------

    def _sign(self, track: _Track, witness: str, at: float) -> None:
        if at > track.sign_at:
            track.sign_at, track.witness = at, witness

    def _others(self, track: _Track) -> list[str]:
        return [t.name for t in self._tracks.values() if t is not track and t.state is MemberState.ALIVE]

    def _all_deny(self, track: _Track) -> bool:
        """Whether the TCP probe and enough members deny that `track` lives. The only other cannot vouch for itself."""
        needed = min(_PEERS_ASKED, len(self._others(track)))
        suspicion = track.suspicion
        return suspicion is not None and suspicion.refused and 0 < needed <= len(suspicion.denied_by)

    def _signs(self) -> Iterable[Sign]:
        return (Sign(t.name, t.state, t.sign_at) for t in self._tracks.values())

    def _after_deaths(self, out: list[Output], now: float) -> list[Output]:
        died = any(isinstance(o, Change) and o.new is MemberState.DEAD for o in out)
        sentence = self._brake.apply(self._signs(), now) if died else None
        return [*out, *([Notice(sentence)] if sentence else []), *self._release(now)]

    def _release(self, now: float) -> list[Output]:
        sentence = self._brake.release(self._signs(), now + _EARLY)
        return [Notice(sentence)] if sentence else []

    def _suspect_at(self, track: _Track) -> float:
        return max(track.heard_at + self.timers.suspect_silence, self._grace)

    def _dead_at(self, track: _Track) -> float:
        at = min(track.sign_at + self.timers.dead_silence, track.heard_at + self.timers.suspect_limit)
        return max(at, self._grace + self.timers.confirm_timeout)

    def _forget_at(self, track: _Track) -> float:
        return math.inf if track.lasting else track.since + self.timers.leave_after

    def _deadline(self, track: _Track) -> float:
        if track.state is MemberState.ALIVE:
            return self._suspect_at(track)
        if track.suspicion is not None:
            return min(self._dead_at(track), track.suspicion.next_round)
        return self._forget_at(track)

    def _schedule(self, now: float) -> None:
        # No later than one interval: that bounds how late a tick can be without being noticed.
        deadlines = [self._deadline(track) for track in self._tracks.values()]
        release_at = self._brake.release_at
        if release_at is not None:
            deadlines.append(release_at)
        self._due = min([now + self.timers.interval, *deadlines])
