"""The brake: when most members vanish at once, *we* are probably the one that is cut off. No I/O, no clock.

What it does, and does not do. The members that vanished still become SUSPECT and then DEAD: nobody answers for them
here, so nothing may be routed to them, whoever is cut off, and people must see it. Only `isolated` is set besides,
which tells the node to go on serving what it reaches and to start no takeover. So of three nodes of which two really
die, the third serves what it has and shows two dead members; what it does not do is to take their place, because
from inside it cannot know whether they took its place already. In a 2 to 1 partition the two see one of two others
vanish, which is not most, and take over; the one sees two of two, and does not.

It is released a detection time after one that was dead is heard again (by then the others have had time to be
heard too), or after so many came that were merely late, left, or were forgotten that the rest is not most any more.
Other members prove nothing: a brand-new one is heard over the same broken network.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal.cluster.view import MemberState


class Sign(msgspec.Struct, frozen=True):
    """What the brake looks at of a member.

    Attributes:
        name: the member.
        state: its state after this moment's judgements.
        at: time of the last sign of life, whoever got it.
    """

    name: str
    state: MemberState
    at: float


class Brake:
    """Decides whether this node is isolated.

    Attributes:
        isolated: whether the brake is on.

    Args (of the constructor):
        interval: seconds between two heartbeats.
        detection: seconds of silence after which a member is dead.
    """

    def __init__(self, interval: float, detection: float) -> None:
        self.isolated = False
        self._interval = interval
        self._detection = detection
        self._others = 0
        self._vanished: set[str] = set()
        self._unsure: dict[str, float] = {}  # those of them that are not dead yet -> last sign of life
        self._better_since: float | None = None

    @property
    def release_at(self) -> float | None:
        """When `release` will let go if nothing else happens; None while there is no reason to."""
        return None if self._better_since is None else self._better_since + self._detection

    def apply(self, members: Iterable[Sign], now: float) -> str | None:
        """Look at all members after one was found dead; return the sentence if the brake is set by that.

        Members that vanish together are found dead up to a heartbeat interval apart, since each one's last
        heartbeat was at another moment. So those count too that are merely overdue when the first one is found
        dead: nobody may begin to take over in between.
        """
        if self.isolated:
            return None
        window = self._detection + 2 * self._interval
        present, gone = 0, []
        for member in members:
            silence = now - member.at
            if member.state is MemberState.ALIVE and silence < 1.5 * self._interval:
                present += 1
            elif member.state is not MemberState.LEFT and silence <= window:
                gone.append(member)
        if len(gone) < 2 or len(gone) <= present:
            return None
        self.isolated = True
        self._others = present + len(gone)
        self._vanished = {member.name for member in gone}
        self._unsure = {member.name: member.at for member in gone if member.state is not MemberState.DEAD}
        self._better_since = None
        return (
            f"{len(gone)} of {self._others} members vanished within {window:.1f} s: this node is probably "
            "cut off; it serves what it reaches and takes nothing over until one of them is heard again"
        )

    def release(self, members: Iterable[Sign], now: float) -> str | None:
        """Look at all members; return the sentence if the brake is released."""
        if not self.isolated:
            return None
        signs = {member.name: member for member in members}
        self._sort_out(signs)
        back = sorted(n for n in self._vanished - set(self._unsure) if signs[n].state is MemberState.ALIVE)
        few = len(self._vanished) < 2 or 2 * len(self._vanished) <= self._others
        if not back and not few:
            self._better_since = None
            return None
        if self._better_since is None:
            self._better_since = now
        if now < self._better_since + self._detection:
            return None
        self.isolated, self._better_since = False, None
        if self.apply(signs.values(), now) is not None:
            return None  # meanwhile others vanished, and again they are most
        who = (
            f"{', '.join(back)} heard again" if back else "what vanished is not most of the members any more"
        )
        return f"this node does not count as cut off any more: {who}"

    def _sort_out(self, signs: dict[str, Sign]) -> None:
        """Take out who left, and who was only late when the brake was set and came after all."""
        for name in list(self._vanished):
            sign = signs.get(name)
            if sign is None or sign.state is MemberState.LEFT:
                self._vanished.discard(name)
                self._unsure.pop(name, None)
            elif name in self._unsure and sign.state is MemberState.DEAD:
                del self._unsure[name]
            elif name in self._unsure and sign.state is MemberState.ALIVE and sign.at > self._unsure[name]:
                self._vanished.discard(name)
                del self._unsure[name]
