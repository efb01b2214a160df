import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.watch import Externals, Orphans
from support.configs import config


@asynccontextmanager
async def server(healthy: bool = True, models: bytes = b"") -> AsyncIterator[int]:
    """Serve /health, and /v1/models if there are any, and nothing else; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        body = models if b"/v1/models" in line else b""
        status = b"200 OK" if body or (healthy and b"/health" in line) else b"404 Not Found"
        head = b"HTTP/1.1 " + status + b"\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        writer.write(head + body)
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event, the condition is seen from outside
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def lost(port: int, state: MemberState = MemberState.DEAD, authority: str = "") -> View:
    engine = EngineReport(
        id="m-0",
        model="m",
        kind="sim",
        state=EngineState.READY,
        host="127.0.0.1",
        port=port,
        authority=authority,
    )
    report = NodeReport(name="b:1", version="1", engines=(engine,))
    return View(me="a:1", members=(Member(name="b:1", state=state, report=report),))


def test_an_engine_whose_authority_this_node_does_not_know_counts_as_gone(tmp_path: Path):
    async def test() -> None:
        changes = []
        async with server() as port:
            orphans = Orphans(Certificates(tmp_path, None), lambda: changes.append(1))
            orphans.update(lost(port, authority="0" * 16))
            await eventually(lambda: orphans.answers.get("b:1/m-0") is False)
            assert changes == [1]
            orphans.stop()

    run(test)


def test_the_engines_of_a_dead_member_are_asked_themselves():
    async def test() -> None:
        async with server() as port:
            orphans = Orphans(Certificates(Path(), None), lambda: None)
            orphans.update(lost(port))
            await eventually(lambda: orphans.answers.get("b:1/m-0") is True)
        await eventually(lambda: orphans.answers.get("b:1/m-0") is False)
        orphans.update(lost(port, MemberState.ALIVE))
        assert orphans.answers == {}
        orphans.stop()

    run(test)


def test_external_engines_come_and_go_with_an_event_each():
    async def test() -> None:
        async with server() as port:
            c = config(
                f"""
                nodes: [{{host: 127.0.0.1}}]
                model: {{name: m, engine: external, addresses: [{{url: "http://127.0.0.1:{port}/base", weight: 2}}]}}
                engines: {{probe_interval: 0.05}}
                """
            )
            events = Events()
            externals = Externals(c, lambda _: 5, events, lambda: None)
            target = externals.known()[0].target
            assert (target.slot, target.weight, target.base_path) == (5, 2.0, "/base")
            assert target.host_header == f"127.0.0.1:{port}"
            externals.start()
            await eventually(lambda: externals.known()[0].report.state is EngineState.READY)
        await eventually(lambda: externals.known()[0].report.state is EngineState.UNHEALTHY)
        externals.stop()
        assert [e.text.partition(":")[0] for e in events.last()] == [
            "external engine external/m-0 answers and gets requests",
            "external engine external/m-0 gets no requests",
        ]

    run(test)


@pytest.mark.parametrize(("owner", "token_ids"), [("vllm", True), ("somebody", False)])
def test_whether_an_external_engine_is_vllm_is_found_out(owner: str, token_ids: bool):
    async def test() -> None:
        card = {"id": "m", "object": "model", "owned_by": owner, "max_model_len": 2048}
        async with server(models=json.dumps({"object": "list", "data": [card]}).encode()) as port:
            c = config(
                f"""
                nodes: [{{host: 127.0.0.1}}]
                model: {{name: m, engine: external, addresses: [{{url: "http://127.0.0.1:{port}"}}]}}
                engines: {{probe_interval: 0.05}}
                """
            )
            externals = Externals(c, lambda _: 5, Events(), lambda: None)
            externals.start()
            await eventually(lambda: externals.known()[0].report.state is EngineState.READY)
            known = externals.known()[0]
            assert (known.target.token_ids, known.report.max_model_len) == (token_ids, 2048)
            externals.stop()

    run(test)
