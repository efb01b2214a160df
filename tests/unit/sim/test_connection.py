from __future__ import annotations

import asyncio
import socket

import pytest

from shoal.sim.connection import ResettingProtocol, reset


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        reset(transport)


@pytest.mark.parametrize("protocol", [Greeter, ResettingProtocol])
def test_the_peer_of_a_reset_connection_gets_an_error(protocol: type[asyncio.Protocol]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(loop.sock_recv(sock, 1), 10)
        server.close()

    asyncio.run(scenario())
