"""All other nodes of a large cluster, as one of them hears them: ``Child("peers", ...)``.

They send what real nodes send, as often, and to that one alone; what it sends them ends here unread. So a cluster of
any size can be heard on a machine that could not run it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import Any

import msgspec
import uvloop

from benchmarks.scale.child import answer_lines
from benchmarks.scale.cluster import HOST, SECRET, in_flight, report
from shoal.cluster.view import Heard
from shoal.cluster.wire import Codec, Heartbeat, Message, Payload, Traffic

_INTERVAL = 0.5  # s: the default of `cluster.heartbeat_interval`
_TRAFFICS = 10  # times in it that a busy node tells what its gateways have open


class Peers:
    """The peers.

    Args:
        target: name of the node that hears them.
        everybody: names of all nodes.
        busy: their gateways have requests at all engines.
    """

    def __init__(self, target: str, everybody: list[str], busy: bool) -> None:
        self._address = HOST, int(target.rpartition(":")[2])
        self._busy = busy
        self._everybody = everybody
        self._codec = Codec("shoal", SECRET)
        self._sequence = 0
        self._incarnation = time.time_ns() // 1_000_000
        heard = {n: Heard(self._incarnation, 123, HOST, int(n.rpartition(":")[2])) for n in everybody}
        self._peers = []
        for number, name in enumerate(everybody):
            if name == target:
                continue
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((HOST, int(name.rpartition(":")[2])))
            said = report(name, number, everybody, busy)
            others = {n: h for n, h in heard.items() if n != name}
            said = msgspec.structs.replace(said, incarnation=self._incarnation, heard=others)
            self._peers.append((name, sock, Heartbeat(said)))
        self._traffic = Traffic(in_flight(everybody), dict.fromkeys(in_flight(everybody), 2000))
        self.sizes: dict[str, int] = {}
        self._late = 0.0
        self._task: asyncio.Task[None] | None = None

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of the measurement."""
        if question["what"] == "start":
            self._task = asyncio.create_task(self._send())
            return {}
        return {"sizes": self.sizes, "late": self._late}

    async def _send(self) -> None:
        """Send in small portions, so that the node hears them spread over the interval, as it would."""
        rounds = _TRAFFICS if self._busy else 1
        due = time.monotonic()
        while True:
            for turn in range(rounds):
                portions = 10 if self._busy else 50
                for portion in range(portions):
                    for name, sock, heartbeat in self._peers[portion::portions]:
                        if turn == 0:
                            self._one(name, sock, heartbeat)
                        if self._busy:
                            self._one(name, sock, self._traffic)
                    due += _INTERVAL / rounds / portions
                    self._late = max(self._late, time.monotonic() - due)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _one(self, name: str, sock: socket.socket, payload: Payload) -> None:
        self._sequence += 1
        datagram = self._codec.encode(Message(name, self._incarnation, self._sequence, payload))
        self.sizes[type(payload).__name__.lower()] = len(datagram)
        sock.sendto(datagram, self._address)


async def _run(arguments: dict[str, Any]) -> None:
    await answer_lines(Peers(arguments["target"], arguments["everybody"], arguments["busy"]).answer)


if __name__ == "__main__":
    uvloop.run(_run(json.loads(sys.argv[1])))
