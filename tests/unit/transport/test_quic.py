"""Requests over QUIC: two carriers in one process, on loopback."""

import asyncio
import random
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration

from shoal.cluster.pki import SERVER_NAME, Authority
from shoal.gateway.messages import Credentials
from shoal.transport.chunks import Chunks
from shoal.transport.contract import Answer, Call, CarrierError, Handler
from shoal.transport.directory import Directory
from shoal.transport.messages import RelayEngine, RelaySettings
from shoal.transport.quic.asking import Asking
from shoal.transport.quic.carrier import QuicCarrier
from shoal.transport.quic.endpoint import Endpoint
from support.relay import DEADLINE


def credentials(directory: Path, node: str, secret: str = "a secret of the cluster") -> Credentials:
    authority = Authority("c", secret)
    pair = authority.issue(node)
    directory.mkdir(exist_ok=True)
    files = {"ca.pem": authority.certificate, "node.pem": pair.certificate, "node.key": pair.key}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    ca, certificate, key = (str(directory / name) for name in files)
    return Credentials(ca=ca, certificate=certificate, key=key, server_name=SERVER_NAME)


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock


class Node:
    """A carrier with a socket of its own."""

    def __init__(self, directory: Path, handler: Handler, secret: str = "a secret of the cluster") -> None:
        self.socket = udp()
        self.port = self.socket.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"
        self.directory = Directory()
        self.credentials = credentials(directory / str(self.port), self.name, secret)
        self.handler = handler
        self.incarnation = 0
        self.carrier = self._carrier()

    def _carrier(self) -> QuicCarrier:
        self.incarnation += 1
        settings = RelaySettings(
            protocol="udp",
            node=self.name,
            cluster="c",
            credentials=self.credentials,
            incarnation=self.incarnation,
        )
        return QuicCarrier(settings, self.directory, self.handler, self.socket)

    def replace(self) -> None:
        """Leave the carrier where it is, as a killed process does, and have another one."""
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        for peer in self.carrier._peers.values():
            peer._task.cancel()
        self.carrier = self._carrier()

    def know(self, *names: str) -> None:
        self.directory.replace(
            RelayEngine(id=f"{name}/m-0", model="m", host="127.0.0.1", port=1) for name in names
        )


async def nobody(call: Call) -> Answer:
    raise CarrierError("nobody is here", unsent=True)


def answer_of(chunks: AsyncIterator[bytes], status: int = 200) -> Answer:
    return Answer(status=status, headers=[(b"x-a", b"b")], chunks=chunks, served_by="me")


def call_to(node: str, body: bytes = b"{}") -> Call:
    return Call(
        id="1",
        engine=f"{node}/m-0",
        model="m",
        method=b"POST",
        target=b"/v1/x?y",
        headers=[(b"a", b"b")],
        body=body,
    )


async def until(condition: Callable[[], object], what: str = "") -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - nobody tells of what is asked for here
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def reached(asking: Node, name: str) -> None:
    await until(
        lambda: asking.carrier.trouble_with(name) is None, f"connection: {asking.carrier.trouble_with(name)}"
    )


def pair(work: Callable[[Node, Node], Awaitable[None]], tmp_path: Path, handler: Handler) -> None:
    """Run `work` with two nodes, the first connected to the second, whose handler is given."""

    async def bounded() -> None:
        asking, serving = Node(tmp_path, nobody), Node(tmp_path, handler)
        asking.know(serving.name)
        serving.know(asking.name)
        await serving.carrier.start()
        await asking.carrier.start()
        try:
            async with asyncio.timeout(2 * DEADLINE):
                await reached(asking, serving.name)
                await work(asking, serving)
        finally:
            await asking.carrier.close()
            await serving.carrier.close()
            asking.socket.close()
            serving.socket.close()

    asyncio.run(bounded())


async def whole(answer: Answer) -> bytes:
    return b"".join([chunk async for chunk in answer.chunks])


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_a_call_and_its_answer_arrive_as_they_were(tmp_path: Path, size: int) -> None:
    body = random.Random(size).randbytes(size)

    async def echo(call: Call) -> Answer:
        assert (call.method, call.target, list(call.headers)) == (b"POST", b"/v1/x?y", [(b"a", b"b")])

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(call.body), 70_000):
                yield call.body[at : at + 70_000]

        return answer_of(chunks(), 201)

    async def work(asking: Node, serving: Node) -> None:
        answer = await asking.carrier.call(call_to(serving.name, body))
        assert (answer.status, list(answer.headers), answer.served_by) == (201, [(b"x-a", b"b")], "me")
        assert await whole(answer) == body

    pair(work, tmp_path, echo)


def test_many_calls_share_a_connection_and_none_waits_for_another(tmp_path: Path) -> None:
    stuck = asyncio.Event()

    async def handler(call: Call) -> Answer:
        async def chunks() -> AsyncIterator[bytes]:
            yield call.body
            if call.body == b"0":
                await stuck.wait()

        return answer_of(chunks())

    async def work(asking: Node, serving: Node) -> None:
        first = await asking.carrier.call(call_to(serving.name, b"0"))
        bodies = [str(i).encode() for i in range(1, 300)]
        answers = await asyncio.gather(*(asking.carrier.call(call_to(serving.name, b)) for b in bodies))
        assert await asyncio.gather(*map(whole, answers)) == bodies
        stuck.set()
        assert await whole(first) == b"0"

    pair(work, tmp_path, handler)


def test_a_reader_that_stops_pauses_its_own_stream_alone(tmp_path: Path) -> None:
    sent = 0

    async def handler(call: Call) -> Answer:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            if call.body == b"small":
                yield b"small"
                return
            for _ in range(800):  # 8 MB
                yield bytes(10_000)
                sent += 1

        return answer_of(chunks())

    async def work(asking: Node, serving: Node) -> None:
        slow = await asking.carrier.call(call_to(serving.name, b"big"))
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            for _ in range(20):
                assert await whole(await asking.carrier.call(call_to(serving.name, b"small"))) == b"small"
        assert 0 < sent < 300
        assert len(await whole(slow)) == 8_000_000

    pair(work, tmp_path, handler)


def test_a_caller_that_goes_is_noticed_by_the_engine(tmp_path: Path) -> None:
    dropped = asyncio.Event()

    async def handler(_: Call) -> Answer:
        chunks = Chunks(lambda: None, lambda: None, dropped.set)
        chunks.feed(b"one")
        return answer_of(chunks)

    async def work(asking: Node, serving: Node) -> None:
        answer = await asking.carrier.call(call_to(serving.name))
        assert await anext(answer.chunks) == b"one"
        await answer.chunks.aclose()
        await dropped.wait()

    pair(work, tmp_path, handler)


def test_what_goes_wrong_there_is_said_here(tmp_path: Path) -> None:
    half = asyncio.Event()

    async def handler(call: Call) -> Answer:
        if call.body == b"refuse":
            raise CarrierError("no room", unsent=True)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            await half.wait()
            raise CarrierError("the engine died")

        return answer_of(chunks())

    async def work(asking: Node, serving: Node) -> None:
        with pytest.raises(CarrierError, match="no room") as refused:
            await asking.carrier.call(call_to(serving.name, b"refuse"))
        assert refused.value.unsent
        answer = await asking.carrier.call(call_to(serving.name))
        assert await anext(answer.chunks) == b"half"
        half.set()
        with pytest.raises(CarrierError, match="broke off"):
            await anext(answer.chunks)

    pair(work, tmp_path, handler)


def test_a_relay_that_was_killed_and_came_back_is_found_again_at_once(tmp_path: Path) -> None:
    async def handler(call: Call) -> Answer:
        if call.body != b"hang":
            chunks = Chunks(lambda: None, lambda: None, lambda: None)
            chunks.feed(b"there")
            chunks.finish()
            return answer_of(chunks)
        await asyncio.Event().wait()
        raise AssertionError

    async def work(asking: Node, serving: Node) -> None:
        hanging = asyncio.create_task(asking.carrier.call(call_to(serving.name, b"hang")))
        await asyncio.sleep(0)
        serving.replace()
        await serving.carrier.start()
        with pytest.raises(CarrierError):
            await hanging
        await reached(asking, serving.name)
        assert await whole(await asking.carrier.call(call_to(serving.name))) == b"there"

    pair(work, tmp_path, handler)


def test_silence_is_trouble_within_seconds_and_ends_with_it(tmp_path: Path) -> None:
    async def handler(_: Call) -> Answer:
        raise CarrierError("not this time")

    async def work(asking: Node, serving: Node) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(serving.socket.fileno())  # as if a firewall had come up
        await until(lambda: asking.carrier.trouble_with(serving.name), "trouble")
        with pytest.raises(CarrierError) as refused:
            await asking.carrier.call(call_to(serving.name))
        assert refused.value.unsent
        assert serving.carrier._endpoint is not None
        loop.add_reader(serving.socket.fileno(), serving.carrier._endpoint._readable)
        await reached(asking, serving.name)

    pair(work, tmp_path, handler)


@pytest.mark.parametrize("who", ["another secret", "nobody's certificate"])
def test_whoever_is_not_of_the_cluster_gets_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    asked: list[Call] = []

    async def handler(call: Call) -> Answer:
        asked.append(call)
        raise CarrierError("should not happen")

    async def work(_: Node, serving: Node) -> None:
        stranger = Node(tmp_path, nobody, secret="another secret, of other people")
        stranger.know(serving.name)
        # It trusts the cluster: only the cluster's own check is left to refuse it.
        shutil.copy(serving.credentials.ca, stranger.credentials.ca)
        if who == "nobody's certificate":
            monkeypatch.setattr(Endpoint, "_configuration", _without_certificate(stranger))
        await stranger.carrier.start()
        assert stranger.carrier._endpoint is not None
        try:
            # What it sends along with the end of its handshake must not be looked at either.
            link = stranger.carrier._endpoint.connect("127.0.0.1", serving.port)
            await link.up
            with pytest.raises(CarrierError):
                await Asking(link).ask(call_to(serving.name))
            await until(lambda: stranger.carrier.trouble_with(serving.name), "refusal")
            assert "certificate" in (stranger.carrier.trouble_with(serving.name) or "")
        finally:
            await stranger.carrier.close()
            stranger.socket.close()
        assert not asked

    pair(work, tmp_path, handler)


def _without_certificate(node: Node) -> Callable[..., QuicConfiguration]:
    made = Endpoint._configuration

    def bare(self: Endpoint, *, client: bool) -> QuicConfiguration:
        found = made(self, client=client)
        if self._socket is node.socket and client:
            found.certificate = found.private_key = None
        return found

    return bare
