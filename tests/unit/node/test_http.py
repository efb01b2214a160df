"""The node's servers of applications."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shoal.node.http import Server


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def test_a_server_answers_with_a_date_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "s"
    app = Starlette(routes=[Route("/", hello)])
    server = Server(uvicorn.Config(app, uds=str(path), log_level="critical", lifespan="off"))

    async def run() -> bytes:
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            server.stop()
            await serving
        return answer

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    assert body == b"hello"
    dates = [line[6:] for line in head.split(b"\r\n") if line.startswith(b"date: ")]
    assert len(dates) == 1
    assert parsedate_to_datetime(dates[0].decode())


def test_a_server_with_nothing_to_do_does_not_wake_up(tmp_path: Path) -> None:
    server = Server(
        uvicorn.Config(Starlette(), uds=str(tmp_path / "s"), log_level="critical", lifespan="off")
    )

    async def run() -> int:
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        timers = len(loop._scheduled)  # type: ignore[attr-defined] # of asyncio's own loop
        server.stop()
        await serving
        return timers

    # The one of our own time-out and no other: what waits for nothing but an event has no timer.
    assert asyncio.run(run()) <= 1
