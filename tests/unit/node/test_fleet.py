"""Orders to nodes that are given at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.engines import Engines
from shoal.node.errors import NotNowError
from shoal.node.events import Events
from shoal.node.fleet import DRAIN, LEAVE, OUT, Fleet
from shoal.node.link import LinkClient, LinkError
from shoal.node.operating import RESTART, Operating
from shoal.node.orders import RefusedError
from support.configs import config

NAMES = ("a:1", "b:1", "c:1")
CONFIG = config(
    """
    nodes: [{host: a, port: 1}, {host: b, port: 1}, {host: c, port: 1}]
    model: {path: m, engine: sim, min_engines: 2}
    """
)


class Nodes:
    """Three nodes with an engine each, whose heartbeats are slower than all that happens here."""

    def __init__(self, directory: Path, silent: str = "") -> None:
        self.silent = silent
        self.busy = False
        self.fleets = {name: self._fleet(name, directory / name) for name in NAMES}
        self.orders = {
            name: fleet.handlers() | Operating(name, fleet, cast("Engines", self)).handlers()
            for name, fleet in self.fleets.items()
        }

    def _fleet(self, name: str, directory: Path) -> Fleet:
        directory.mkdir()
        return Fleet(
            name,
            directory,
            config=lambda: CONFIG,
            view=lambda: self._view(name),
            answers=dict,
            client=cast("LinkClient", self),
            events=Events(),
            on_change=lambda: None,
            leave=lambda: asyncio.sleep(0),
        )

    def _view(self, me: str) -> View:
        members = [
            Member(
                name=name,
                state=MemberState.ALIVE,
                is_self=name == me,
                report=NodeReport(
                    name=name,
                    version="1",
                    engines=(
                        EngineReport(id="m-0", model="m", kind="sim", state=EngineState.READY, host="h"),
                    ),
                ),
            )
            for name in NAMES
        ]
        return View(me=me, members=tuple(members))

    async def ask(self, member: Member, method: str, path: str, **_: Any) -> Any:
        await asyncio.sleep(0)
        if member.name == self.silent:
            raise LinkError("no answer", 0)
        return await self.fleets[member.name].handlers()[method, path]({})

    async def order(self, name: str, path: str, **arguments: Any) -> str:
        try:
            await self.orders[name]["POST", path]({"engine": "m-0"} | arguments)
        except RefusedError as error:
            return str(error)
        return ""

    def restart(self, _: str) -> None:
        """Take the place of `Engines`."""
        if self.busy:
            raise NotNowError("engine m-0 is starting just now", 409)

    def out(self, name: str) -> Mapping[str, Any]:
        return dict(asyncio.run(self.fleets[name].handlers()["GET", OUT]({})))


async def both(nodes: Nodes, first: str, second: str) -> list[str]:
    return list(await asyncio.gather(nodes.order("a:1", first), nodes.order("b:1", second)))


ORDERS = [
    (DRAIN, DRAIN),
    (DRAIN, LEAVE),
    (LEAVE, LEAVE),
    (RESTART, RESTART),
    (RESTART, DRAIN),
    (DRAIN, RESTART),
]


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_two_nodes_taken_out_at_once_do_not_pass_the_floor_together(
    tmp_path: Path, first: str, second: str
) -> None:
    nodes = Nodes(tmp_path)
    refused = [text for text in asyncio.run(both(nodes, first, second)) if text]
    assert refused and all("would have 1 engine in rotation" in text for text in refused)
    # Who was refused is in rotation, and may try again.
    told = [nodes.out(name) for name in NAMES]
    assert sum(t["out"] or t["engines"] != [] for t in told) == 2 - len(refused)


def test_one_after_the_other_is_refused_before_heartbeats_tell_of_the_first(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    assert asyncio.run(nodes.order("a:1", DRAIN)) == ""
    assert "would have 1 engine in rotation" in asyncio.run(nodes.order("b:1", DRAIN))
    assert asyncio.run(nodes.order("b:1", DRAIN, force=True)) == ""


def test_a_node_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, silent="c:1")
    assert asyncio.run(nodes.order("a:1", DRAIN)) == ""


def test_engines_restarted_one_after_the_other_wait_for_heartbeats(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    assert asyncio.run(nodes.order("a:1", RESTART)) == ""
    assert "would have 1 engine in rotation" in asyncio.run(nodes.order("b:1", RESTART))
    assert asyncio.run(nodes.order("b:1", RESTART, force=True)) == ""


def test_an_engine_that_does_not_restart_after_all_holds_nobody_up(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    nodes.busy = True
    assert "just now" in asyncio.run(nodes.order("a:1", RESTART))
    nodes.busy = False
    assert asyncio.run(nodes.order("b:1", RESTART)) == ""
