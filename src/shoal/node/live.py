"""What the console sees live: one stream of server-sent events for each page, put together once a second for all.

Members and engines come from this node's own view. Samples and events of the other nodes are asked for over the link,
once in each step and only while somebody looks on. Each node keeps its own samples, so that whoever opens a page gets
the last quarter of an hour from all of them, from whichever node he asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from shoal.cluster.view import MemberState, View
from shoal.gateway.outcomes import FIRST_EVENT
from shoal.node.events import Event, Events
from shoal.node.link import LinkClient, LinkError
from shoal.node.orders import Handler
from shoal.observe.history import STEP, Point, Ring, Sample, points

WATCHED = "/shoal/v1/watched"
"""Where a node tells others of its samples and events."""

LIFE = 300.0
"""Seconds of a stream, after which its page asks for the next one: no stream holds a former gateway worker for ever."""

_TICK = 1.0
_ASK_TIMEOUT = 1.5  # s
_LINGER = 10.0  # s that the others go on being asked when the last page has gone: it may come back
_EVENTS = 300  # that are kept of all nodes, and that a new page gets
_LATE = 5  # steps that are sent again, because a node's samples may come late


class _Told(msgspec.Struct):
    """What a node says under `WATCHED`."""

    now: float
    samples: list[Sample]
    events: list[Event]


class _Peer:
    """What is known of another node."""

    def __init__(self) -> None:
        self.ring = Ring()
        self.since = 0.0  # time of its last event
        self.shift = 0  # steps by which its clock is behind this one's


class Live:
    """The streams of one node.

    Args:
        node: this node's name.
        status: returns the status document.
        guarded: returns whether the gateway asks for keys.
        ring: this node's samples.
        events: this node's events.
        view: returns members and engines.
        client: asks other nodes.
    """

    def __init__(
        self,
        node: str,
        *,
        status: Callable[[], dict[str, Any]],
        guarded: Callable[[], bool],
        ring: Ring,
        events: Events,
        view: Callable[[], View],
        client: LinkClient,
    ) -> None:
        self._node = node
        self._status = status
        self._guarded = guarded
        self._ring = ring
        self._events = events
        self._view = view
        self._client = client
        self._peers: dict[str, _Peer] = {}
        self._news: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_EVENTS)
        self._told = 0  # events, ever
        self._since = 0.0  # time of this node's last event that is among them
        self._state = b""
        self._ticked = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._watchers = 0
        self._ended = False

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers other nodes, by method and path."""
        return {("GET", WATCHED): self._tell}

    def end(self) -> None:
        """End all streams: the node leaves, and a stream would hold it up."""
        self._ended = True
        self._ticked.set()

    async def stream(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield server-sent events: ``events`` and ``points``, as many as there are, then what is new, and ``state``.

        Args:
            after: step that the page knows all points up to, -1 for none.
        """
        self._watchers += 1
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            async for chunk in self._chunks(after):
                yield chunk
        finally:
            self._watchers -= 1

    async def _chunks(self, after: int) -> AsyncIterator[bytes]:
        until = time.monotonic() + LIFE
        fresh, told, sent = True, 0, after
        while not self._ended and time.monotonic() < until:
            if self._state:
                news = [event for number, event in self._news if number > told]
                if fresh or news:
                    yield _event("events", {"fresh": fresh, "events": news})
                fresh, told = False, self._told
                if self._complete > sent:
                    yield _event("points", self._points(sent - _LATE if sent >= 0 else -1))
                    sent = self._complete
                yield self._state
            ticked = self._ticked
            await ticked.wait()

    def _points(self, after: int) -> list[Point]:
        """Return the points of later steps, up to the last complete one."""
        samples: dict[str, list[Sample]] = {self._node: self._ring.after(after)}
        for name, peer in self._peers.items():
            samples[name] = [
                msgspec.structs.replace(one, step=one.step + peer.shift) if peer.shift else one
                for one in peer.ring.after(after - peer.shift)
            ]
        until = self._complete
        return points(
            {name: [one for one in own if one.step <= until] for name, own in samples.items()}, FIRST_EVENT
        )

    @property
    def _complete(self) -> int:
        """The last step that all nodes have told of, or had time enough to: sums of some nodes alone would be dips."""
        last = self._ring.last
        steps = [peer.ring.last + peer.shift for peer in self._peers.values() if peer.ring.last >= 0]
        return min([last, *(step for step in steps if step >= last - _LATE)])

    # -- once a second, while somebody looks on

    async def _work(self) -> None:
        idle_since, asked = time.monotonic(), -STEP
        while not self._ended:
            now = time.monotonic()
            idle_since = now if self._watchers else idle_since
            if now - idle_since > _LINGER:
                break
            if now - asked >= STEP:
                asked = now
                await self._ask_all()
            self._state = _event("state", self._document())
            self._tick()
            await asyncio.sleep(max(0.0, _TICK - (time.monotonic() - now)))
        self._state = b""

    def _tick(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    def _document(self) -> dict[str, Any]:
        document = self._status()
        del document["events"]
        return document | {"time": time.time(), "guarded": self._guarded()}

    async def _ask_all(self) -> None:
        view = self._view()
        members = [m for m in view.members if m.state is MemberState.ALIVE and not m.is_self]
        for name in self._peers.keys() - {m.name for m in view.members}:
            del self._peers[name]
        found = [(self._node, event) for event in self._events.last(_EVENTS) if event.time > self._since]
        self._since = max((event.time for _, event in found), default=self._since)
        for name, told in zip(
            (m.name for m in members), await asyncio.gather(*map(self._ask, members)), strict=True
        ):
            found += [(name, event) for event in told]
        for name, event in sorted(found, key=lambda one: one[1].time):
            self._told += 1
            self._news.append((self._told, msgspec.to_builtins(event) | {"node": name}))

    async def _ask(self, member: Any) -> list[Event]:
        """Take in a node's samples; return its new events."""
        peer = self._peers.setdefault(member.name, _Peer())
        arguments = {"after": peer.ring.last, "since": repr(peer.since)}
        try:
            document = await self._client.ask(member, "GET", WATCHED, arguments, timeout=_ASK_TIMEOUT)
            told = msgspec.convert(document, _Told, strict=False)
        except (LinkError, msgspec.ValidationError):
            return []
        peer.shift = round((time.time() - told.now) / STEP)
        for one in told.samples:
            peer.ring.add(one)
        peer.since = max((event.time for event in told.events), default=peer.since)
        return told.events

    async def _tell(self, arguments: Mapping[str, Any]) -> Any:
        after, since = int(arguments.get("after", -1)), float(arguments.get("since", 0))
        events = [event for event in self._events.last(_EVENTS) if event.time > since]
        return msgspec.to_builtins(_Told(time.time(), self._ring.after(after), events), str_keys=True)


def _event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
