"""One life of a node's relay process."""

from __future__ import annotations

import socket
from collections.abc import Callable

import msgspec

from shoal.node.child_process import ChildProcess
from shoal.transport.messages import (
    FromRelay,
    RelayCounts,
    RelayNotice,
    RelaySettings,
    RelayState,
    RelayTable,
)


class RelayProcess(ChildProcess[FromRelay]):
    """A relay; one life per object.

    Args:
        settings: of it.
        on_state: called with what it can do now.
        on_counts: called with how many requests it has had.
        on_notice: called with what else it has to say.
        on_end: called when the process has ended, with how, as in ``ended with status 1``.
    """

    def __init__(
        self,
        settings: RelaySettings,
        on_state: Callable[[RelayState], None],
        on_counts: Callable[[RelayCounts], None],
        on_notice: Callable[[RelayNotice], None],
        on_end: Callable[[str], None],
    ) -> None:
        def heard(message: FromRelay) -> None:
            if isinstance(message, RelayState):
                on_state(message)
            elif isinstance(message, RelayCounts):
                on_counts(message)
            else:
                on_notice(message)

        decoder: msgspec.msgpack.Decoder[FromRelay] = msgspec.msgpack.Decoder(FromRelay)
        super().__init__("shoal.transport", decoder, heard, lambda: on_state(RelayState()), on_end)
        self._settings = settings

    async def serve(self, udp: socket.socket | None, table: RelayTable) -> None:
        """Start the process and tell it what it needs to know; it says by itself when it can carry.

        Args:
            udp: the node's socket for QUIC; stays open here.
            table: the engines at first.
        """
        await self.start({} if udp is None else {"--udp-fd": udp.fileno()})
        self.send(self._settings)
        self.send(table)
