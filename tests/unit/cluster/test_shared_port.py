"""Heartbeats and QUIC on one UDP port."""

import asyncio
import socket

import pytest

from shoal.cluster.endpoint import AddressInUse, Endpoint
from support.ports import free_ports

DEADLINE = 20.0


class Port:
    """A shared port, and what came to each of its sockets."""

    def __init__(self, host: str) -> None:
        self.host = host
        (self.port,) = free_ports(1)
        self.heartbeats: asyncio.Queue[bytes] = asyncio.Queue()

    async def open(self, quic: socket.socket | None = None) -> Endpoint:
        return await Endpoint.open(
            self.host, self.port, lambda data, _: self.heartbeats.put_nowait(data), lambda: None, quic
        )

    def throw(self, family: int) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for first in range(256):
                sender.sendto(bytes([first, 1]), (self.host, self.port))

    async def sorted(self, quic: socket.socket) -> None:
        """Throw datagrams of every first byte and see that each comes to its socket, and none is lost."""
        self.throw(quic.family)
        got, heartbeats = [], []
        async with asyncio.timeout(DEADLINE):
            while len(got) < 192:
                got.append(await asyncio.get_running_loop().sock_recv(quic, 100))
            while len(heartbeats) < 64:
                heartbeats.append(await self.heartbeats.get())
        assert {data[0] for data in heartbeats} == set(range(64))
        assert {data[0] for data in got} == set(range(64, 256))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_datagram_comes_to_its_socket_also_after_one_was_opened_anew(host: str) -> None:
    async def work() -> None:
        port = Port(host)
        endpoint = await port.open()
        quic = endpoint.share()
        await port.sorted(quic)
        await endpoint.close()
        endpoint = await port.open(quic)
        await port.sorted(quic)
        await endpoint.close()
        quic.close()

    asyncio.run(work())


def test_a_shared_port_is_not_shared_with_another_node() -> None:
    async def work() -> None:
        port = Port("127.0.0.1")
        endpoint = await port.open()
        quic = endpoint.share()
        with pytest.raises(AddressInUse):
            await port.open()
        await endpoint.close()
        with pytest.raises(AddressInUse):
            await port.open()
        quic.close()
        await (await port.open()).close()

    asyncio.run(work())
