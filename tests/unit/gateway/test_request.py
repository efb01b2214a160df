"""Request heads: what is refused beyond llhttp, and what is forwarded."""

from __future__ import annotations

import pytest

from shoal.gateway.messages import WorkerSettings
from shoal.gateway.request import Manner, RefusalError, Request, parse_request, without_upgrade

SETTINGS = WorkerSettings(index=0, workers=1, node="n", host="", port=1, control_socket="", max_body=1000)


def parse(head: bytes) -> Request:
    return parse_request(head, SETTINGS)


def refused(head: bytes) -> tuple[int, str]:
    with pytest.raises(RefusalError) as caught:
        parse(head)
    return caught.value.answer.status, str(caught.value)


def test_a_plain_head_is_forwarded_as_it_came():
    head = b"POST /v1/completions?x=%20 HTTP/1.1\r\nhOsT:  g:80 \r\nX-A: b\r\nContent-Length: 12"
    request = parse(head)
    assert (request.method, request.target, request.head) == (b"POST", b"/v1/completions?x=%20", head)
    assert (request.length, request.chunked, request.keep_alive, request.http10) == (12, False, True, False)


def test_hop_by_hop_fields_and_those_that_connection_lists_are_dropped():
    head = (
        b"GET / HTTP/1.1\r\nHost: g\r\nConnection: X-One , x-TWO,close\r\nX-One: 1\r\nx-two: 2\r\nX-One-More: 3\r\n"
        b"Keep-Alive: 1\r\nTE: trailers\r\nTrailer: a\r\nUpgrade: a\r\nProxy-Authorization: a\r\nExpect: 100-Continue"
    )
    request = parse(head)
    assert request.head == b"GET / HTTP/1.1\r\nHost: g\r\nX-One-More: 3"
    assert not request.keep_alive
    assert request.expects_continue


def test_http10_is_forwarded_as_11_and_closes():
    request = parse(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\nExpect: something")
    assert (request.head, request.http10, request.keep_alive) == (b"GET /x HTTP/1.1", True, False)


@pytest.mark.parametrize(
    "host", [b"g", b"g:8000", b"127.0.0.1:1", b"[::1]:8000", b"[fe80::1]", b"a-b_c.example", b""]
)
def test_hosts_that_are_valid(host):
    assert parse(b"GET / HTTP/1.1\r\nHost: " + host).target == b"/"


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://other:9/v1/models?x", b"/v1/models?x", b"other:9"),
        (b"HTTPS://other", b"/", b"other"),
        (b"http://other?x", b"/?x", b"other"),
    ],
)
def test_an_absolute_target_gives_path_and_host(target, path, host):
    request = parse(b"GET %b HTTP/1.1\r\nHost: g\r\nX: y" % target)
    assert request.target == path
    assert request.head == b"GET %b HTTP/1.1\r\nhost: %b\r\nX: y" % (path, host)


def test_options_of_the_server_itself_are_a_valid_request():
    assert parse(b"OPTIONS * HTTP/1.1\r\nHost: g").target == b"*"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET  / HTTP/1.1\r\nHost: g", 400),
        (b"GET /", 400),
        (b"GET / HTTP/2.0\r\nHost: g", 505),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\nHost: g", 400),
        (b"GET / HTTP/1.1\r\nHost: a b", 400),
        (b"GET x HTTP/1.1\r\nHost: g", 400),
        (b"GET /%b HTTP/1.1\r\nHost: g" % (b"a" * 20_000), 414),
        (b"GET / HTTP/1.1\r\nHost: g\r\nX: %b" % (b"a" * 70_000), 431),
        (b"GET / HTTP/1.1\r\nHost: g\r\nContent-Length: 1001", 413),
        (b"GET / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\nExpect: magic", 417),
    ],
)
def test_refusals(head, status):
    assert refused(head)[0] == status


def test_a_head_can_be_dressed_for_an_engine_behind_a_proxy():
    request = parse(b"GET /x?y HTTP/1.1\r\nhost: g\r\nAUTHORIZATION: mine\r\nX: y")
    lines = (b"host: h", b"authorization: theirs")
    manner = Manner(b"/p", lines, frozenset((b"host", b"authorization")))
    assert request.head_for(manner) == (b"GET /p/x?y HTTP/1.1\r\nhost: h\r\nauthorization: theirs\r\nX: y")
    assert request.head_for(Manner()) == request.head


def test_header_finds_the_first_field_of_a_name():
    request = parse(b"GET / HTTP/1.1\r\nHost: g\r\nContent-TYPE:  a \r\ncontent-type: b")
    assert (request.header(b"content-type"), request.header(b"accept")) == (b"a", b"")


def test_an_upgrade_can_be_taken_out():
    head = b"GET / HTTP/1.1\r\nCONNECTION: Upgrade, X-A\r\nupgrade: h2c\r\nX-A: 1"
    assert without_upgrade(head) == b"GET / HTTP/1.1\r\nCONNECTION: X-A\r\nX-A: 1"
