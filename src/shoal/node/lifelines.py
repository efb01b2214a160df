"""Whether the processes of members whose node process is silent still live, by their lifelines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping

from shoal.cluster.view import MemberState, SeatState, View, full_id
from shoal.node.addresses import reachable

# A machine that lost its power does not answer at all: together with the detector's time this stays under 3 s.
_TIMEOUT = 0.4
_LATE = 0.1
"""A time-out noticed so much later, in seconds, was this process's own: it did not run, and knows nothing."""
_INTERVAL = 0.5
# A machine that is lost later breaks the open connection after about so many seconds (tcp(7)).
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))


class Lifelines:
    """Holds a connection to the processes of suspect and dead members' parts of engines across nodes.

    Args:
        on_change: called when an answer differs from the one before.

    Attributes:
        answers: whether the process can be connected to, by the full id of the engine on its node.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.answers: dict[str, bool] = {}
        self._on_change = on_change
        self._tasks: dict[str, tuple[tuple[str, int], asyncio.Task[None]]] = {}

    def update(self, view: View) -> None:
        """Begin to watch what has lost its node process, stop watching what has it back."""
        wanted = dict(_silent(view))
        for name, (address, task) in list(self._tasks.items()):
            if wanted.get(name) != address:
                task.cancel()
                del self._tasks[name]
                self.answers.pop(name, None)
        for name, address in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = address, asyncio.create_task(self._watch(name, *address))

    def stop(self) -> None:
        """Stop watching."""
        for _, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _watch(self, name: str, host: str, port: int) -> None:
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_TIMEOUT if port else 0):
                    reader, writer = await asyncio.open_connection(reachable(host), port)
                try:
                    _keep_alive(writer.get_extra_info("socket"))
                    self._note(name, True)
                    await reader.read(1)  # nothing ever comes but the end
                finally:
                    writer.close()
            if name not in self.answers and port and now() - begun > _TIMEOUT + _LATE:
                continue
            self._note(name, False)
            await asyncio.sleep(_INTERVAL)

    def _note(self, name: str, answers: bool) -> None:
        if self.answers.get(name) is not answers:
            self.answers[name] = answers
            self._on_change()


def _silent(view: View) -> Mapping[str, tuple[str, int]]:
    return {
        full_id(member.name, seat.engine): (seat.host, seat.lifeline)
        for member in view.members
        if member.state in (MemberState.SUSPECT, MemberState.DEAD) and member.report is not None
        for seat in member.report.seats
        if seat.state in (SeatState.JOINED, SeatState.RUNNING)
    }


def _keep_alive(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
