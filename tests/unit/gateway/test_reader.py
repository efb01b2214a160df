"""Reading requests: where they begin and end, in whatever pieces they come. See also test_fuzz.py."""

from __future__ import annotations

import itertools
import random

import pytest

from shoal.gateway.messages import WorkerSettings
from shoal.gateway.reader import RequestReader
from shoal.gateway.request import Request

SETTINGS = WorkerSettings(index=0, workers=1, node="n", host="", port=1, control_socket="", max_body=100_000)

CRLF = b"\r\n"


def read(*pieces: bytes) -> tuple[list[Request], int | None]:
    """Return the requests in `pieces`, and the status of a refusal."""
    reader = RequestReader(SETTINGS)
    for piece in pieces:
        reader.feed(piece)
    return list(reader.requests), reader.refusal.status if reader.refusal else None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_an_empty_line_in_front_of_a_request_is_ignored():
    for blank in (CRLF, CRLF + CRLF, CRLF * 3):
        (request,), refusal = read(blank + b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (request.head, refusal) == (b"GET / HTTP/1.1\r\nHost: g", None)


def test_many_empty_lines_inside_chunks_do_not_confuse_it():
    content = CRLF * 3000
    data = b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(content),
        content,
    )
    assert read(data + data)[0][1].body == content
    chance = random.Random(1)
    assert (
        read(*split(data + data, [chance.randrange(len(data) * 2) for _ in range(50)]))[0][1].body == content
    )


def test_a_body_in_a_great_many_pieces_is_put_together():
    content = bytes(range(256)) * 40
    chunks = b"".join(b"2\r\n%b\r\n" % content[start : start + 2] for start in range(0, len(content), 2))
    data = b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    found, _ = read(data + data)
    assert [request.body for request in found] == [content, content]


def test_a_reader_that_has_ended_takes_nothing_more():
    reader = RequestReader(SETTINGS)
    reader.feed(b"GET / HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert reader.ended
    reader.feed(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert (len(reader.requests), reader.refusal) == (1, None)


def test_it_says_where_it_stands():
    reader = RequestReader(SETTINGS)
    assert (reader.idle(), reader.in_body()) == (True, False)
    reader.feed(b"POST / HTTP/1.1\r\n")
    assert (reader.idle(), reader.in_body()) == (False, False)
    reader.feed(b"Host: g\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (reader.idle(), reader.in_body()) == (False, True)
    assert [reader.take_continue(), reader.take_continue()] == [True, False]
    reader.feed(b"hi")
    assert (reader.idle(), reader.in_body()) == (True, False)


@pytest.mark.parametrize("kind", ["h2c", "websocket"])
def test_an_upgrade_is_declined_and_its_body_read(kind):
    head = b"POST / HTTP/1.1\r\nHost: g\r\nUpgrade: %b\r\nConnection: close, upgrade\r\nContent-Length: 2\r\n\r\n"
    data = head % kind.encode() + b"hi"
    for pieces in ((data,), [bytes([byte]) for byte in data]):
        (request,), refusal = read(*pieces)
        assert (request.body, request.keep_alive, refusal) == (b"hi", False, None)
        assert b"pgrade" not in request.head


WEBSOCKET = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: g\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n"
)


def test_a_websocket_is_kept_where_there_may_be_one_and_ends_the_reading():
    for pieces in ((WEBSOCKET,), [bytes([byte]) for byte in WEBSOCKET]):
        (request,), refusal = read(*pieces)
        assert (request.upgrade, request.keep_alive, refusal) == (True, False, None)
        assert request.head.endswith(b"Sec-WebSocket-Key: x\r\nconnection: upgrade\r\nupgrade: websocket")
        assert request.head.lower().count(b"upgrade:") == 1


def test_nothing_is_taken_behind_a_websocket_before_it_is_answered():
    found, refusal = read(WEBSOCKET + b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert (found, refusal) == ([], 400)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"POST"),
        (b"/v1/realtime", b"/v1/models"),
        (b"WebSocket\r\n", b"websocket, h2c\r\n"),
        (b"Sec-", b"Content-Length: 0\r\nSec-"),
    ],
)
def test_other_upgrades_are_declined(old: bytes, new: bytes):
    (request,), refusal = read(WEBSOCKET.replace(old, new, 1))
    assert (request.upgrade, request.keep_alive, refusal) == (False, True, None)
    assert b"pgrade" not in request.head
