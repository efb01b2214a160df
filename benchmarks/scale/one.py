"""One node of a large busy cluster: what the node process does for the others, and no more: ``Child("one", ...)``.

Its membership, and what its gateways tell and hear, are the real ones; the routing table is worked out once a second,
as the node process does. The other nodes are `peers`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from benchmarks.scale.child import answer_lines
from benchmarks.scale.cluster import ENGINE, configuration, in_flight, report, settings
from shoal.cluster.membership import Membership
from shoal.cluster.view import MemberState, full_id
from shoal.cluster.wire import Traffic
from shoal.gateway import affinity, counters
from shoal.gateway.affinity import Affinity
from shoal.gateway.counters import InFlight
from shoal.node.sharing import Sharing
from shoal.node.slots import Slots
from shoal.node.tables import routing_table

_TICK = 0.05  # s: a tenth of a heartbeat's interval, as in the node process
_MEMORY = 8 << 20


class One:
    """The node.

    Args:
        name: its name.
        everybody: names of all nodes.
        busy: its gateways have requests at all engines.
    """

    def __init__(self, name: str, everybody: list[str], busy: bool) -> None:
        self._name, self._everybody = name, everybody
        self._config = configuration(everybody)
        number = everybody.index(name)
        self._slots = Slots(counters.SLOTS)
        self._map = InFlight(counters.create(1), 1)
        if busy:
            row = self._map.row(0)
            for engine, count in in_flight(everybody).items():
                row[self._slots(engine)] = count
        self._membership = Membership(
            settings(name, everybody),
            lambda: report(name, number, everybody, busy),
            lambda *_: None,
            self._hear,
        )
        shared = Affinity(affinity.create(1, _MEMORY), 1)
        self._sharing = Sharing(self._slots, self._map, shared, self._membership.tell)
        self._tasks: list[asyncio.Task[None]] = []

    def _hear(self, sender: str, traffic: Traffic) -> None:
        self._sharing.heard(sender, traffic)

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of the measurement."""
        match question["what"]:
            case "start":
                await self._membership.start()
                self._tasks = [asyncio.create_task(self._share()), asyncio.create_task(self._tables())]
                return {}
            case "complete":
                alive = [m for m in self._membership.view().members if m.state is MemberState.ALIVE]
                return {"complete": len(alive) == len(self._everybody)}
            case "cost":
                counted = self._membership.counters
                return {
                    "cpu": time.process_time(),
                    "now": time.monotonic(),
                    "sent": counted["sent"],
                    "received": counted["received"],
                }
        raise ValueError(question)

    async def _share(self) -> None:
        while True:
            self._sharing.update(self._membership.view())
            for _ in range(5):
                self._sharing.tick()
                await asyncio.sleep(_TICK)

    async def _tables(self) -> None:
        answers = {full_id(name, ENGINE): True for name in self._everybody}
        while True:
            routing_table(self._config, self._membership.view(), version=1, slot=self._slots, answers=answers)
            await asyncio.sleep(1.0)


async def _run(arguments: dict[str, Any]) -> None:
    await answer_lines(One(arguments["name"], arguments["everybody"], arguments["busy"]).answer)


if __name__ == "__main__":
    uvloop.run(_run(json.loads(sys.argv[1])))
