"""Real sockets on loopback, several members in one process."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import uvloop

from shoal.cluster.detector import Timers
from shoal.cluster.endpoint import AddressInUse
from shoal.cluster.identity import IdentityInUse
from shoal.cluster.membership import Membership, MembershipSettings
from shoal.cluster.view import EngineReport, EngineState, MemberState, NodeReport, View
from shoal.cluster.wire import Codec, Heartbeat, Message, Traffic

ALIVE, DEAD, LEFT = MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT
QUICK = Timers(interval=0.1, suspect_after=3, confirm_timeout=0.1, leave_after=0.5)
DEFAULTS = Timers()
SECRET = "a secret of more than sixteen characters"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Node:
    """A membership with everything it said."""

    def __init__(self, port: int, peers: list[int], timers: Timers = QUICK, **settings: Any) -> None:
        self.port = port
        self.name = settings.pop("name", f"127.0.0.1:{port}")
        self.report = NodeReport(name="filled in", version="1")
        self.told: list[str] = []
        self.views: list[View] = []
        self.traffic: list[tuple[str, Traffic]] = []
        hosts = tuple(("127.0.0.1", p) for p in peers) + settings.pop("hosts", ())
        fields = {"secret": SECRET, "peers": hosts, **settings}
        self.membership = Membership(
            MembershipSettings(name=self.name, bind="127.0.0.1", port=port, timers=timers, **fields),
            lambda: self.report,
            self.changed,
            lambda member, traffic: self.traffic.append((member, traffic)),
        )

    def changed(self, view: View, sentences: list[str]) -> None:
        self.views.append(view)
        self.told += sentences

    def sees(self, other: Node, state: MemberState | None = ALIVE) -> bool:
        member = self.membership.view().member(other.name)
        return (member.state if member else None) is state

    def says(self, text: str) -> int:
        return sum(text in sentence for sentence in self.told)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 20))


async def until(condition: Callable[[], object], within: float = 5.0) -> float:
    """Wait for a condition; return how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < within, "the condition did not come true in time"
        await asyncio.sleep(0.005)
    return loop.time() - began


async def cluster(count: int, timers: Timers = QUICK, **settings: Any) -> list[Node]:
    ports = free_ports(count)
    nodes = [Node(port, ports, timers, **settings) for port in ports]
    for node in nodes:
        await node.membership.start()
    await until(lambda: all_alive(nodes))
    return nodes


def all_alive(nodes: list[Node]) -> bool:
    return all(a.sees(b) for a, b in itertools.permutations(nodes, 2))


async def stop(*nodes: Node) -> None:
    for node in nodes:
        await node.membership.stop(goodbye=False)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_find_each_other_whatever_the_order(order: tuple[int, ...]) -> None:
    async def scenario() -> None:
        ports = free_ports(3)
        nodes = [Node(port, ports, DEFAULTS) for port in ports]
        for index in order:
            await nodes[index].membership.start()
        await until(lambda: all_alive(nodes), within=1.5)
        view = nodes[0].membership.view()
        assert [m.name for m in view.members] == sorted(n.name for n in nodes)
        assert view.member(nodes[0].name).is_self  # type: ignore[union-attr]
        assert nodes[0].says(f"node {nodes[1].name} is alive") == 1
        await stop(*nodes)

    run(scenario)


def test_one_that_vanishes_is_dead_in_two_seconds_and_one_that_leaves_has_left_at_once() -> None:
    async def scenario() -> None:
        one, two, three = await cluster(3, DEFAULTS)
        await three.membership.stop(goodbye=False)
        took = await until(lambda: one.sees(three, DEAD) and two.sees(three, DEAD), within=2.0)
        assert took > 0.9
        assert one.says(f"node {three.name} is dead: no heartbeat for 1.") == 1
        assert one.views[-1].member(three.name).state is DEAD  # type: ignore[union-attr]
        await two.membership.stop(goodbye=True)
        assert await until(lambda: one.sees(two, LEFT)) < 0.5
        assert one.says(f"node {two.name} left") == 1
        await stop(one)

    run(scenario)


def test_a_node_that_comes_back_is_alive_again() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        await stop(two)
        await until(lambda: one.sees(two, DEAD))
        again = Node(two.port, [one.port])
        await again.membership.start()
        await until(lambda: all_alive([one, again]))
        assert one.says(f"node {two.name} restarted") == 1
        await stop(one, again)

    run(scenario)


def test_a_wrong_secret_never_joins_and_both_sides_say_so_once() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        port = free_ports(1)[0]
        stranger = Node(port, [one.port, two.port], secret="another secret of sixteen")
        one.membership.add_peer("127.0.0.1", port)
        await stranger.membership.start()
        await until(lambda: one.membership.counters.get("wrong_secret", 0) >= 5)
        await until(lambda: stranger.membership.counters.get("wrong_secret", 0) >= 2)
        assert one.sees(stranger, None)
        assert all_alive([one, two])
        where = f"127.0.0.1:{port}"
        assert one.says(f"heartbeats from {where} do not verify: its cluster.secret differs from ours") == 1
        assert stranger.says(f"heartbeats from {one.name} do not verify") == 1
        assert not stranger.says("is alive")
        await stop(one, two, stranger)

    run(scenario)


def test_another_cluster_and_another_format_are_named() -> None:
    async def scenario() -> None:
        one = Node(free_ports(1)[0], [])
        other = Node(free_ports(1)[0], [one.port], cluster="other")
        await one.membership.start()
        await other.membership.start()
        await until(lambda: one.says("its cluster.name differs from ours") == 1)
        datagram = Codec("shoal", SECRET).encode(
            Message("x:1", 1, 1, Heartbeat(NodeReport(name="x:1", version="1")))
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\x02" + datagram[1:], ("127.0.0.1", one.port))
            await until(lambda: one.says("heartbeat format 2, this release speaks 1") == 1)
        await stop(one, other)

    run(scenario)


def test_ten_thousand_garbage_datagrams_change_nothing() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        before = list(one.told)
        good = Codec("shoal", SECRET).encode(
            Message("x:1", 1, 1, Heartbeat(NodeReport(name="x:1", version="1")))
        )
        kinds = [
            b"GET / HTTP/1.1",
            b"\x00" * 500,
            b"\xc3" * 1200,
            good[:60],
            good[:-1] + b"?",
            b"\x01" * 60_000,
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(10_000):
                kind = kinds[number % len(kinds)] if number % 50 == 0 else kinds[number % (len(kinds) - 1)]
                sock.sendto(kind, ("127.0.0.1", one.port))
                if number % 20 == 0:
                    await asyncio.sleep(0)
        await until(lambda: one.membership.counters["received"] > 9_000)
        assert all_alive([one, two])
        assert [m.name for m in one.membership.view().members] == sorted([one.name, two.name])
        new = one.told[len(before) :]
        assert len(new) <= 3, new  # junk, cluster name, secret: one sentence each
        await stop(one, two)

    run(scenario)


def test_replayed_datagrams_keep_nobody_alive() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tap:
            tap.bind(("127.0.0.1", 0))
            tap.setblocking(False)
            loop = asyncio.get_running_loop()
            one = Node(free_ports(1)[0], [])
            two = Node(free_ports(1)[0], [tap.getsockname()[1]])
            await one.membership.start()
            await two.membership.start()
            recorded = await loop.sock_recv(tap, 65_536)
            await stop(two)
            tap.sendto(recorded, ("127.0.0.1", one.port))
            await until(lambda: one.sees(two))

            def replay_until_dead() -> bool:
                tap.sendto(recorded, ("127.0.0.1", one.port))
                return one.sees(two, DEAD)

            took = await until(replay_until_dead)
            assert took < 3 * QUICK.dead_silence
            assert one.membership.counters["replayed"] > 5
            await stop(one)

    run(scenario)


def test_a_second_process_with_the_name_of_a_running_one_gives_way() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        third = Node(free_ports(1)[0], [two.port], name=one.name)
        with pytest.raises(IdentityInUse) as caught:
            await third.membership.check_identity()
        assert f"a node {one.name} already runs: " in str(caught.value)
        assert f"from 127.0.0.1:{one.port}" in str(caught.value)
        assert "--node" in str(caught.value)
        await until(lambda: one.says(f"wants to be node {one.name} as well; this one stays") == 1)
        assert all_alive([one, two])
        assert not two.says("restarted")
        await stop(one, two)

    run(scenario)


def test_it_gives_way_too_when_only_other_members_can_tell() -> None:
    async def scenario() -> None:
        # The running process listens elsewhere, so that the name's own address does not lead to it.
        nominal, real, other, second = free_ports(4)
        running = Node(real, [other], name=f"127.0.0.1:{nominal}")
        witness = Node(other, [nominal])
        await running.membership.start()
        await witness.membership.start()
        await until(lambda: witness.sees(running))
        twin = Node(second, [other], name=running.name)
        with pytest.raises(IdentityInUse, match=f"{witness.name} hears it from 127.0.0.1:{real}"):
            await twin.membership.check_identity()
        await stop(running, witness)

    run(scenario)


def test_a_node_killed_and_started_again_at_once_is_not_refused() -> None:
    async def scenario() -> None:
        one, two, three = await cluster(3)
        await stop(three)
        again = Node(three.port, [one.port, two.port])
        await again.membership.check_identity()
        await again.membership.start()
        await until(lambda: all_alive([one, two, again]))
        await stop(one, two, again)

    run(scenario)


def test_a_clock_that_went_back_does_not_shut_a_node_out() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        await stop(two)
        again = Node(two.port, [one.port], incarnation=1_000)
        await again.membership.check_identity()
        assert again.membership.incarnation == two.membership.incarnation + 1
        await again.membership.start()
        await until(lambda: all_alive([one, again]))
        await stop(one, again)

    run(scenario)


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async def scenario() -> None:
        (one,) = await cluster(1)
        with pytest.raises(AddressInUse, match=f"127.0.0.1:{one.port}/udp"):
            await Node(one.port, []).membership.start()
        await stop(one)

    run(scenario)


ENGINE = EngineReport(id="m-0", model="m", kind="sim", state=EngineState.STARTING, host="127.0.0.1", port=1)


def test_a_change_of_an_engine_is_announced_at_once_and_load_is_only_in_the_view() -> None:
    async def scenario() -> None:
        one, two = await cluster(2, DEFAULTS)
        two.report = msgspec.structs.replace(two.report, engines=(ENGINE,))
        two.membership.announce()
        full = f"{two.name}/m-0"
        assert await until(lambda: one.says(f"engine {full} is there, starting")) < 0.3
        ready = msgspec.structs.replace(ENGINE, state=EngineState.READY)
        two.report = msgspec.structs.replace(two.report, engines=(ready,))
        two.membership.announce()
        assert await until(lambda: one.says(f"engine {full} is ready (was starting)")) < 0.3
        assert [e.state for _, e in one.views[-1].engines()] == [EngineState.READY]
        told = len(one.told)
        two.report = msgspec.structs.replace(two.report, in_flight={full: 7})
        two.membership.announce()

        def in_flight() -> dict[str, int]:
            member = one.membership.view().member(two.name)
            return member.report.in_flight if member and member.report else {}

        await until(lambda: in_flight() == {full: 7})
        assert len(one.told) == told
        await stop(one, two)

    run(scenario)


def test_traffic_reaches_the_living_members_and_nobody_else() -> None:
    async def scenario() -> None:
        one, two, three = await cluster(3, DEFAULTS)
        said = Traffic({"x/m-0": 3}, {"x/m-0": 5000}, {"x/m-0": b"12345678"})
        one.membership.tell(said)
        await until(lambda: two.traffic == [(one.name, said)] and three.traffic == [(one.name, said)])
        one.membership.tell(Traffic(blocks={"x/m-0": bytes(100_000)}))
        await until(lambda: one.says("not told to other nodes"))
        assert one.traffic == []
        await stop(one, two, three)
        one.membership.tell(said)  # nothing happens any more
        assert len(two.traffic) == 1

    run(scenario)


def test_a_node_that_no_file_names_joins_through_one_member_and_is_forgotten_when_it_is_gone() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        newcomer = Node(free_ports(1)[0], [])
        await newcomer.membership.start()
        newcomer.membership.add_peer("localhost", one.port)
        await until(lambda: all_alive([one, two, newcomer]))
        assert two.says(f"node {newcomer.name} joined") == 1
        await newcomer.membership.stop()
        await until(lambda: one.sees(newcomer, None) and two.sees(newcomer, None))
        await stop(one, two)

    run(scenario)


def test_peers_are_found_by_dns_name() -> None:
    async def scenario() -> None:
        first, second = free_ports(2)
        one = Node(first, [], hosts=(("localhost", second), ("no-such-host.invalid", 1)))
        two = Node(second, [], name=f"localhost:{second}")
        await one.membership.check_identity()
        await one.membership.start()
        await two.membership.start()
        await until(lambda: one.sees(two) and two.sees(one))
        assert one.says("no-such-host.invalid does not resolve") == 1
        await stop(one, two)

    run(scenario)


def test_a_report_that_is_far_too_large_still_keeps_its_node_alive() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        engines = tuple(msgspec.structs.replace(ENGINE, id=f"m-{n}", detail="x" * 90) for n in range(1000))
        two.report = msgspec.structs.replace(two.report, engines=engines)
        await until(lambda: one.says("m-100 is there"))
        assert two.says("this node's report is too large, parts are left out: ") == 1
        two.report = msgspec.structs.replace(two.report, engines=(), in_flight={"x" * 60_000: 1})
        await until(lambda: one.says("m-100 is gone"))
        assert one.sees(two)
        two.report = msgspec.structs.replace(two.report, version="x" * 60_000)
        await until(lambda: two.says("this node's heartbeat cannot be sent: "))
        await stop(one, two)

    run(scenario)


def test_a_fault_in_what_the_node_gives_stops_no_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        def fail(*_: object) -> Any:
            raise ZeroDivisionError

        two.membership._report_source = fail
        two.membership._on_change = fail
        sent = two.membership.counters["sent"]
        await until(lambda: two.membership.counters["sent"] > sent + 5)
        assert one.sees(two)
        third = Node(free_ports(1)[0], [one.port, two.port])
        await third.membership.start()
        await until(lambda: two.sees(third))
        assert caplog.text.count("this node's report cannot be made") == 1
        await stop(one, two, third)

    run(scenario)


def test_a_report_that_can_never_be_made_is_an_error_at_the_start() -> None:
    def fail() -> NodeReport:
        raise ZeroDivisionError

    async def scenario() -> None:
        settings = MembershipSettings(name="127.0.0.1:1", bind="127.0.0.1", port=free_ports(1)[0])
        with pytest.raises(ZeroDivisionError):
            await Membership(settings, fail, lambda view, sentences: None).start()

    run(scenario)


def test_a_socket_that_breaks_is_opened_again() -> None:
    async def scenario() -> None:
        one, two = await cluster(2)
        one.membership._endpoint._transport.close()  # type: ignore[union-attr]
        await until(lambda: one.says("the socket for heartbeats broke"))
        received = one.membership.counters["received"]
        await until(lambda: one.membership.counters["received"] > received + 5)
        assert all_alive([one, two])
        await stop(one, two)

    run(scenario)


def test_a_life_ends_once() -> None:
    async def scenario() -> None:
        (one,) = await cluster(1)
        await one.membership.stop()
        await one.membership.stop()
        one.membership.announce()
        with pytest.raises(RuntimeError, match="lives once"):
            await one.membership.start()

    run(scenario)
