"""What the gateways of a cluster tell each other so that each routes as if it were the only one.

Ten times in a heartbeat's interval a node looks how many requests, and bytes of prompt on their way, its gateways have
at each engine, and which prompt blocks they have sent where since the last time, and says what has changed. Nothing is
said while there is nothing to say, or nobody to hear it. What is lost is not repeated at once: open requests are told
anew anyway, and a block that is not known costs one prefill at most.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from shoal.cluster.view import EngineReport, EngineState, MemberState, View, full_id
from shoal.cluster.wire import Traffic
from shoal.gateway.affinity import Affinity
from shoal.gateway.counters import InFlight
from shoal.node.slots import Slots
from shoal.routing.prefix_table import column

BLOCKS: Final = 2000
"""Blocks told in one datagram at most: 16 kB."""

DATAGRAMS: Final = 8
"""Datagrams of blocks at most in one round: at the default heartbeat 2.5 MB/s to each other node. More is left out."""

_FRESH: Final = 1.0  # s after which a heartbeat says more of a node's open requests than its last `Traffic`
_REPEAT: Final = (
    0.5  # s after which numbers that stay the same are told again: less than `_FRESH`, in case one gets lost
)
_QUIET: Final = 1.0  # s for which zeros are told after the last number, in case one gets lost
# s: an engine's own numbers are up to 1.5 s late, so requests count as from outside when they were there all this time.
_OUTSIDE: Final = 2.5
_SILENCE: Final = Traffic()


class Sharing:
    """One node's part in it.

    Args:
        slots: which engine has which column of the maps.
        in_flight: open requests.
        affinity: work on its way, what engines say of their load, and prompt blocks.
        send: sends a message to all other members that live.
    """

    def __init__(
        self, slots: Slots, in_flight: InFlight, affinity: Affinity, send: Callable[[Traffic], None]
    ) -> None:
        self._slots = slots
        self._in_flight = in_flight
        self._affinity = affinity
        self._send = send
        self._news = affinity.listener()
        self._said = float("-inf")  # when there was last something to say
        self._told = float("-inf")  # when something was last said
        self._cells = b"", b""  # what `in_flight` and `affinity` held then
        self.alone = False
        """There was nobody to tell anything at the last `update`."""
        self._heard: dict[str, tuple[float, Traffic]] = {}
        self._others: dict[str, dict[str, int]] = {}  # other members' open requests, as their heartbeats say
        self._news_of_others = False
        self._instances: dict[
            int, tuple[str, str] | None
        ] = {}  # None: it is away, and may be another one later
        self._excess: dict[int, deque[tuple[float, int]]] = {}

    # What this node says.

    def tick(self) -> None:
        """Say and take in what is new; to be called ten times in a heartbeat's interval."""
        self._tell()
        if self._news_of_others:
            self._write_others()

    def _tell(self) -> None:
        now = time.monotonic()
        cells = self._in_flight.own(), self._affinity.own()
        news = list(self._news())
        if cells == self._cells and not news and (now - self._told < _REPEAT or now - self._said > _QUIET):
            return
        self._cells = cells
        engines = self._slots.known()
        in_flight = {engine: self._in_flight.local(slot) for engine, slot in engines.items()}
        work = {engine: self._affinity.local(slot) for engine, slot in engines.items()}
        traffic = Traffic(_not_zero(in_flight), _not_zero(work))
        batches = self._batches(news, {slot: engine for engine, slot in engines.items()})
        if traffic.in_flight or traffic.work or batches:
            self._said = now
        elif now - self._said > _QUIET:
            return
        self._told = now
        first = batches[0] if batches else {}
        self._send(Traffic(traffic.in_flight, traffic.work, first))
        for blocks in batches[1:]:
            self._send(Traffic(traffic.in_flight, traffic.work, blocks))

    def _batches(
        self, news: Iterable[tuple[int, list[int]]], engines: dict[int, str]
    ) -> list[dict[str, bytes]]:
        """Return the blocks learned since the last time, in portions of `BLOCKS`."""
        batches: list[dict[str, bytes]] = []
        room = 0
        for slot, hashes in news:
            engine = engines.get(slot)
            if engine is None:
                continue
            if len(hashes) > room:
                if len(batches) == DATAGRAMS:
                    continue
                batches.append({})
                room = BLOCKS
            room -= len(hashes)
            batches[-1][engine] = batches[-1].get(engine, b"") + _packed(hashes)
        return batches

    # What it hears.

    def heard(self, sender: str, traffic: Traffic) -> None:
        """Take in what another node says."""
        now, before = time.monotonic(), self._heard.get(sender)
        self._heard[sender] = now, traffic
        if (
            before is None
            or now - before[0] >= _FRESH
            or (before[1].in_flight, before[1].work) != (traffic.in_flight, traffic.work)
        ):
            self._news_of_others = True
        for engine, packed in traffic.blocks.items():
            slot = self._slots.get(engine)
            if slot is not None:
                self._affinity.table.put(_unpacked(packed), column(slot), _clock())

    def update(self, view: View, externals: Iterable[EngineReport] = ()) -> None:
        """Let the workers see what heartbeats and probes bring; to be called about as often as they come.

        Args:
            view: members and engines.
            externals: engines that somebody else runs.
        """
        self._others = {
            member.name: member.report.in_flight
            for member in view.members
            # The gateways of dead and departed members hold nothing any more.
            if member.state in {MemberState.ALIVE, MemberState.SUSPECT}
            and member.report is not None
            and not member.is_self
        }
        self.alone = not any(m.state is MemberState.ALIVE and not m.is_self for m in view.members)
        self._heard = {name: said for name, said in self._heard.items() if name in self._others}
        self._write_others()
        self._look_at_engines(view, externals, time.monotonic())

    def _write_others(self) -> None:
        """Add up what other nodes' gateways have open, each by the newest that was heard of it."""
        self._news_of_others = False
        now = time.monotonic()
        in_flight: dict[str, int] = {}
        work: dict[str, int] = {}
        for name, reported in self._others.items():
            when, traffic = self._heard.get(name, (float("-inf"), _SILENCE))
            if now - when < _FRESH:
                _add(in_flight, traffic.in_flight)
                _add(work, traffic.work)
            else:
                _add(in_flight, reported)
        self._in_flight.set_remote(self._by_slot(in_flight))
        self._affinity.set_remote(self._by_slot(work))

    def _look_at_engines(self, view: View, externals: Iterable[EngineReport], now: float) -> None:
        reports = [(full_id(member.name, engine.id), engine) for member, engine in view.engines()]
        reports += [(full_id("external", engine.id), engine) for engine in externals]
        said: dict[int, tuple[int, int, int]] = {}
        for name, engine in reports:
            slot = self._slots.get(name)
            if slot is None:
                continue
            if engine.state is not EngineState.READY:
                if not engine.instance and slot in self._instances:  # somebody else's
                    self._instances[slot] = None
                continue
            # What others have told of an engine before this node saw it for the first time is true all the same.
            if self._instances.setdefault(slot, (name, engine.instance)) != (name, engine.instance):
                self._instances[slot] = name, engine.instance
                self._affinity.table.forget(column(slot), _clock())
            outside = self._from_outside(slot, engine.running + engine.waiting, now)
            kv = engine.kv_usage
            said[slot] = outside, _counted(engine.waiting), round(1000 * kv) if 0.0 <= kv <= 1.0 else 0
        self._affinity.set_engines(said)

    def _from_outside(self, slot: int, requests: int, now: float) -> int:
        """Return how many more requests an engine had all the time than gateways have sent it."""
        seen = self._excess.setdefault(slot, deque([(now, 0)]))
        seen.append((now, requests - self._in_flight.load(slot)))
        while now - seen[0][0] > _OUTSIDE:
            seen.popleft()
        return _counted(min(excess for _, excess in seen))

    def _by_slot(self, numbers: dict[str, int]) -> dict[int, int]:
        found = ((self._slots.get(engine), number) for engine, number in numbers.items())
        return {slot: _counted(number) for slot, number in found if slot is not None}


def _counted(number: int) -> int:
    """Return a number that fits into the maps, whatever another node or an engine has said."""
    return min(max(0, number), 1 << 40)


def _not_zero(numbers: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, number in more.items():
        total[name] = total.get(name, 0) + number


def _clock() -> int:
    """Return the milliseconds that policies use as the table's clock."""
    return time.monotonic_ns() // 1_000_000


def _packed(hashes: list[int]) -> bytes:
    numbers = array("Q", hashes)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(packed: bytes) -> list[int]:
    numbers = array("Q")
    numbers.frombytes(packed[: len(packed) // 8 * 8])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
