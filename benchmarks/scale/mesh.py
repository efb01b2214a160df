"""Real members of one cluster, several in this process, each with its own UDP socket: ``Child("mesh", ...)``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from benchmarks.scale.child import answer_lines
from benchmarks.scale.cluster import report, settings
from shoal.cluster.membership import Membership
from shoal.cluster.view import MemberState, View


class Mesh:
    """The members of this process.

    Args:
        mine: their names.
        everybody: names of all members.
    """

    def __init__(self, mine: list[str], everybody: list[str]) -> None:
        self._everybody = everybody
        self._victim = ""
        self._noticed: dict[str, float] = {}
        self.members = {name: self._member(name) for name in mine}

    def _member(self, name: str) -> Membership:
        number, everybody = self._everybody.index(name), self._everybody

        def changed(view: View, sentences: list[str]) -> None:
            victim = view.member(self._victim) if self._victim else None
            if victim is not None and victim.state is MemberState.DEAD:
                self._noticed.setdefault(name, time.monotonic())

        return Membership(settings(name, everybody), lambda: report(name, number, everybody, False), changed)

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of the measurement."""
        match question["what"]:
            case "start":
                for member in self.members.values():
                    await member.start()
                return {}
            case "complete":
                counts = [len(m.view().members) for m in self.members.values() if self._all_alive(m)]
                return {"complete": len(counts) == len(self.members)}
            case "cost":
                sent = sum(m.counters["sent"] for m in self.members.values())
                return {"cpu": time.process_time(), "now": time.monotonic(), "sent": sent}
            case "watch":
                self._victim = question["victim"]
                return {}
            case "lose":
                self._victim = question["victim"]
                await self.members.pop(self._victim).stop(goodbye=False)
                return {"at": time.monotonic()}
            case "noticed":
                return {"at": self._noticed, "members": len(self.members)}
        raise ValueError(question)

    def _all_alive(self, member: Membership) -> bool:
        view = member.view()
        return len(view.members) == len(self._everybody) and all(
            m.state is MemberState.ALIVE for m in view.members
        )


async def _run(arguments: dict[str, Any]) -> None:
    await answer_lines(Mesh(arguments["mine"], arguments["everybody"]).answer)


if __name__ == "__main__":
    uvloop.run(_run(json.loads(sys.argv[1])))
    asyncio.set_event_loop(None)
