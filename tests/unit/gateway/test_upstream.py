"""What a connection to an engine sets on its socket. What becomes of responses is in test_exchange."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from shoal.gateway.upstream import UpstreamConnection


def test_events_are_confirmed_together_where_packets_are():
    connection = UpstreamConnection(None)  # type: ignore[arg-type]
    for sock in socket.socketpair(socket.AF_UNIX), (socket.socket(), socket.socket()):
        connection.transport = SimpleNamespace(get_extra_info={"socket": sock[0]}.get)  # type: ignore[assignment]
        connection.take_chunks(lambda _: True)
        assert connection.on_chunk is not None
        if sock[0].family == socket.AF_INET:
            assert sock[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
            assert sock[1].getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
        for end in sock:
            end.close()
