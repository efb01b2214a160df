from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from shoal.cluster.addresses import Address
from shoal.cluster.endpoint import AddressInUse, BindError, Endpoint

Got = list[tuple[bytes, Address]]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def run(scenario: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 10))


def nothing() -> None:
    raise AssertionError("the socket was lost")


@pytest.mark.parametrize("factory", LOOPS)
def test_datagrams_of_every_size_arrive_and_errors_of_the_network_do_no_harm(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> None:
        got: Got = []
        port, dead = free_port(), free_port()
        one = await Endpoint.open("127.0.0.1", 0, lambda data, source: None, nothing)
        two = await Endpoint.open("127.0.0.1", port, lambda data, source: got.append((data, source)), nothing)
        one.send(b"x", ("127.0.0.1", dead))  # answered by ICMP: port unreachable
        one.send(b"x" * 70_000, ("127.0.0.1", port))  # larger than any datagram
        one.send(b"x", ("fd00::1", port))  # not of our family
        one.send(b"x", ("not-an-address", port))
        one.send(b"y" * 60_000, ("127.0.0.1", port))
        one.send(b"z", ("127.0.0.1", port))
        await until(lambda: len(got) == 2)
        assert [len(data) for data, _ in got] == [60_000, 1]
        assert got[0][1][0] == "127.0.0.1"
        assert one.errors >= 1
        assert one.dropped == 1
        await one.close()
        one.send(b"after closing", ("127.0.0.1", port))
        await two.close()

    run(scenario, factory)


@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_had_by_one_process_alone(other: str) -> None:
    async def scenario() -> None:
        port = free_port()
        first = await Endpoint.open("127.0.0.1", port, lambda data, source: None, nothing)
        with pytest.raises(AddressInUse, match="is this node running already"):
            await Endpoint.open(other, port, lambda data, source: None, nothing)
        await first.close()
        again = await Endpoint.open(other, port, lambda data, source: None, nothing)
        await again.close()

    run(scenario, uvloop.new_event_loop)


@pytest.mark.parametrize("host", ["192.0.2.77", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_a_clear_error(host: str) -> None:
    async def scenario() -> None:
        with pytest.raises(BindError, match=f"cannot listen on {host}:8000/udp: "):
            await Endpoint.open(host, 8000, lambda data, source: None, nothing)

    run(scenario, uvloop.new_event_loop)


def test_an_ipv6_socket_talks_to_ipv4_hosts_too() -> None:
    async def scenario() -> None:
        got: Got = []
        try:
            wide = await Endpoint.open("::", 0, lambda data, source: got.append((data, source)), nothing)
        except BindError:
            pytest.skip("no IPv6 here")
        port = free_port()
        narrow = await Endpoint.open(
            "127.0.0.1", port, lambda data, source: got.append((data, source)), nothing
        )
        wide.send(b"to four", ("127.0.0.1", port))
        await until(lambda: got)
        narrow.send(b"back", ("127.0.0.1", got[0][1][1]))
        await until(lambda: len(got) == 2)
        assert got[1] == (b"back", ("127.0.0.1", port))
        await wide.close()
        await narrow.close()

    run(scenario, uvloop.new_event_loop)


@pytest.mark.parametrize("factory", LOOPS)
def test_a_socket_that_breaks_by_itself_is_reported_and_a_closed_one_is_not(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> None:
        lost: list[str] = []
        first = await Endpoint.open("127.0.0.1", 0, lambda data, source: None, lambda: lost.append("first"))
        second = await Endpoint.open("127.0.0.1", 0, lambda data, source: None, lambda: lost.append("second"))
        await second.close()
        first._transport.close()  # type: ignore[union-attr]
        await until(lambda: lost)
        assert lost == ["first"]

    run(scenario, factory)
