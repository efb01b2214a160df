"""Which answers are final, and how long to wait before the next attempt."""

import asyncio
import json

import pytest

from shoal.batch.lines import Line
from shoal.batch.sender import Sender, delay, is_final


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 413, 422, 501])
def test_what_the_request_itself_is_to_blame_for_is_final(status: int):
    assert is_final(status, 0)


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_a_busy_cluster_is_waited_for_as_long_as_it_takes(status: int):
    assert not is_final(status, 1000)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_request_that_may_kill_engines_is_given_up_at_last(status: int):
    assert not is_final(status, 7)
    assert is_final(status, 8)


def test_delays_grow_to_a_bound_and_heed_the_server():
    waits = [delay(n, None, 0.5) for n in range(1, 12)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.25, 15.0)
    assert delay(1, "7", 0.0) == 7
    assert delay(1, "7", 1.0) == 8.75
    assert delay(1, "100000", 0.0) == 60
    assert delay(1, "Fri, 31 Dec 1999 23:59:59 GMT", 0.5) == 0.25
    assert delay(9999, None, 1.0) <= 22.5


def test_it_tries_again_and_shows_whose_request_it_is():
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                return
            await reader.readexactly(2)
            if len(heads) == 1:
                writer.close()  # a gateway worker that dies
                return
            status = b"503 Busy" if len(heads) == 2 else b"200 OK"
            body = json.dumps({"n": len(heads)}).encode()
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = Sender(lambda: f"http://127.0.0.1:{port}", lambda key: f"secret.{key}")
        answer = await sender.send("/v1/completions", Line(1, "a", b"{}"), "anna")
        assert (answer.status, answer.body) == (200, b'{"n": 3}')
        await sender.close()
        server.close()

    asyncio.run(run())
    assert all(b"authorization: Bearer secret.anna" in head for head in heads)
    assert all(b"x-shoal-priority: batch" in head for head in heads)
    assert heads[0].startswith(b"POST /v1/completions ")
