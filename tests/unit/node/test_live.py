"""The streams of the console: what a page gets first, what later, and when they end."""

import asyncio
import json
from typing import Any

import msgspec

from shoal.cluster.view import Member, MemberState, View
from shoal.node.events import Events
from shoal.node.link import LinkError
from shoal.node.live import WATCHED, Live
from shoal.observe.history import STEP, Ring, Sample

ME = Member(name="a:1", state=MemberState.ALIVE, is_self=True)


class Client:
    """Answers as another node would, or does not."""

    def __init__(self, other: Live | None) -> None:
        self.other = other

    async def ask(self, _: Member, method: str, path: str, arguments: Any, *, timeout: float) -> Any:
        if self.other is None:
            raise LinkError("it did not answer")
        texts = {name: str(value) for name, value in arguments.items()}  # as in a query
        return json.loads(json.dumps(await self.other.handlers()[method, path](texts)))


def make(other: Live | None = None, *, peers: tuple[str, ...] = ()) -> tuple[Live, Ring, Events]:
    ring, events = Ring(), Events(clock=lambda: 5.0)
    view = View(me="a:1", members=(ME, *(Member(name=n, state=MemberState.ALIVE) for n in peers)))
    live = Live(
        "a:1",
        status=lambda: {"node": "a:1", "events": [], "members": []},
        guarded=lambda: True,
        ring=ring,
        events=events,
        view=lambda: view,
        client=Client(other),  # type: ignore[arg-type]
    )
    return live, ring, events


async def first(live: Live, count: int, after: int = -1) -> list[tuple[str, Any]]:
    """Return the first messages of a stream."""
    stream, found = live.stream(after), []
    async for message in stream:
        lines = message.decode().splitlines()
        found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
        if len(found) == count:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def test_a_page_gets_the_past_first_and_then_how_it_is():
    live, ring, events = make()
    for step in (7, 8, 9):
        ring.add(Sample(step=step, tokens=step))
    events.add("something happened", "warning")
    told, shown, state = asyncio.run(first(live, 3))
    event = {"time": 5.0, "level": "warning", "text": "something happened", "node": "a:1"}
    assert told == ("events", {"fresh": True, "events": [event]})
    assert shown[0] == "points"
    assert [point["tokens"] for point in shown[1]] == [7, 8, 9]
    assert state[0] == "state"
    assert (state[1]["node"], state[1]["guarded"]) == ("a:1", True)
    assert "events" not in state[1]


def test_who_knows_all_points_gets_none_again():
    live, ring, _ = make()
    ring.add(Sample(step=9))
    assert [name for name, _ in asyncio.run(first(live, 2, after=9))] == ["events", "state"]


def test_samples_and_events_of_other_nodes_are_among_it():
    other, their_ring, their_events = make()
    live, ring, _ = make(other, peers=("b:1",))
    for step in (8, 9):
        their_ring.add(Sample(step=step, tokens=1))
        ring.add(Sample(step=step, tokens=2, first={1: 1}))
    ring.add(Sample(step=10, tokens=2))  # of which b:1 has not told yet
    their_events.add("b did something")
    told, shown, _ = asyncio.run(first(live, 3))
    assert [event["node"] for event in told[1]["events"]] == ["b:1"]
    assert [(point["t"], point["tokens"]) for point in shown[1]] == [(8 * STEP, 3), (9 * STEP, 3)]


def test_a_node_that_says_nothing_holds_nothing_up():
    live, ring, _ = make(None, peers=("b:1",))
    ring.add(Sample(step=9, tokens=2))
    assert [name for name, _ in asyncio.run(first(live, 3))] == ["events", "points", "state"]


def test_streams_end_when_the_node_leaves():
    live, _, _ = make()

    async def run() -> int:
        count = 0
        async for _ in live.stream():
            count += 1
            live.end()
        return count

    assert asyncio.run(asyncio.wait_for(run(), 10)) >= 1


def test_a_node_tells_others_what_is_new_to_them():
    live, ring, events = make()
    ring.add(Sample(step=1))
    ring.add(Sample(step=2, first={3: 4}))
    events.add("old")

    async def ask(**arguments: str) -> Any:
        return await live.handlers()["GET", WATCHED](arguments)

    told = asyncio.run(ask(after="1", since="5.0"))
    assert [one["step"] for one in told["samples"]] == [2]
    assert told["events"] == []
    assert len(asyncio.run(ask())["events"]) == 1
    assert msgspec.convert(told["samples"][0], Sample, strict=False).first == {3: 4}
