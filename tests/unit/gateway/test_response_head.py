"""Response heads. What becomes of whole responses is in test_exchange."""

from __future__ import annotations

import pytest

from shoal.gateway.response_head import BadResponseError, Framing, parse_head


def parse(head: bytes, head_only: bool = False, http10: bool = False):
    return parse_head(head, head_only, http10)


@pytest.mark.parametrize(
    ("head", "framing", "length"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5", Framing.LENGTH, 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", Framing.NONE, 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked ", Framing.CHUNKED, -1),
        (b"HTTP/1.1 200 OK", Framing.CLOSE, -1),
        (b"HTTP/1.1 204 No Content", Framing.NONE, -1),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5", Framing.NONE, 5),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x", Framing.NONE, -1),
    ],
)
def test_the_framing_is_known_and_the_head_passes_as_it_came(head, framing, length):
    found = parse(head)
    assert (found.framing, found.length, found.head) == (framing, length, head)
    assert found.keep_alive == (framing is not Framing.CLOSE)


def test_a_head_that_answers_head_has_no_body():
    found = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 5", head_only=True)
    assert (found.framing, found.length) == (Framing.NONE, 5)


def test_fields_about_the_connection_are_dropped():
    found = parse(
        b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: X-Y, Close, Content-Length\r\nX-Y: 1\r\nKeep-Alive: 1\r\n"
        b"Upgrade: h2c\r\nProxy-Connection: x\r\nX-Shoal-Engine: forged\r\nX-Shoal-Attempts: 9\r\ncontent-length: 3"
    )
    assert found.head == b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 3"
    assert not found.keep_alive


def test_http10_engines_close_and_are_introduced_as_11():
    found = parse(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-length: 3")
    assert (found.head, found.keep_alive) == (b"HTTP/1.1 200 OK\r\ncontent-length: 3", False)


def test_http10_clients_are_not_told_of_chunks():
    found = parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nA: b", http10=True)
    assert (found.head, found.framing) == (b"HTTP/1.1 200 OK\r\nA: b", Framing.CHUNKED)


def test_a_204_announces_no_body():
    found = parse(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nA: b")
    assert found.head == b"HTTP/1.1 204 No Content\r\nA: b"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 999 Hm",
        b"HTTP/1.1 099 Hm",
        b"HTTP/2.0 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
    ],
)
def test_what_cannot_be_forwarded_is_refused(head):
    with pytest.raises(BadResponseError):
        parse(head)
