"""Reading requests: the same result however the bytes are cut, and no more lenient than two other parsers."""

from __future__ import annotations

import itertools
import random

import h11
import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.gateway.messages import WorkerSettings
from shoal.gateway.reader import RequestReader
from shoal.gateway.request import Request

SETTINGS = WorkerSettings(index=0, workers=1, node="n", host="", port=1, control_socket="", max_body=100_000)

CRLF = b"\r\n"
tokens = st.text("abcdefgXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12).map(str.encode)
values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
).map(lambda text: text.encode("latin-1"))
fields = st.lists(
    st.tuples(tokens.filter(lambda name: name.lower() not in (b"te", b"host")), values).map(b": ".join),
    max_size=6,
)
bodies = st.binary(max_size=300) | st.sampled_from(
    [b"\r\n\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n" * 40]
)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a body as chunks and as what it is."""
    pieces = draw(st.lists(bodies.filter(bool), max_size=5))
    extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="x y"']))
    trailers = draw(st.sampled_from([b"", b"x: y\r\n", b"x: y\r\nz: \r\n"]))
    data = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return data + b"0\r\n" + trailers + CRLF, b"".join(pieces)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a valid request and its body."""
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]))
    target = b"/" + draw(st.text("abc/?&=%20.-", max_size=30)).encode()
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: gateway.example:8000", *draw(fields)]
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    data = body = b""
    if kind == "length":
        data = body = draw(bodies)
        lines.insert(draw(st.integers(1, len(lines))), b"Content-Length: %d" % len(body))
    elif kind == "chunked":
        data, body = draw(chunked())
        lines.insert(draw(st.integers(1, len(lines))), b"transfer-encoding:  chunked ")
    blank = draw(st.sampled_from([b"", b"", CRLF]))
    return blank + CRLF.join([*lines, b"", b""]) + data, body


def read(*pieces: bytes) -> tuple[list[Request], int | None]:
    """Return the requests in `pieces`, and the status of a refusal."""
    reader = RequestReader(SETTINGS)
    for piece in pieces:
        reader.feed(piece)
    return list(reader.requests), reader.refusal.status if reader.refusal else None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_valid_requests_come_out_the_same_however_they_are_cut(messages, cuts):
    data = b"".join(message for message, _ in messages)
    whole, refusal = read(data)
    assert refusal is None
    assert [request.body for request in whole] == [body for _, body in messages]
    assert read(*split(data, cuts)) == (whole, None)


@settings(max_examples=30, deadline=None)
@given(requests(), requests())
def test_valid_requests_come_out_the_same_byte_by_byte(first, second):
    data = first[0] + second[0]
    assert read(*(bytes([byte]) for byte in data)) == read(data)


@settings(max_examples=200, deadline=None)
@given(requests(), st.data())
def test_what_llhttp_or_h11_refuse_is_refused_and_the_rest_reads_the_same(message, data):
    """Mutations of valid requests, read by three parsers."""
    raw = bytearray(message[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(raw) - 1, 200)))
        length = data.draw(st.integers(0, 2))
        new = data.draw(
            st.sampled_from(
                [b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0", b"5", b";", b"\x80", b"\r\n", b"x", b""]
            )
            | st.binary(max_size=2)
        )
        raw[place : place + length] = new
    mutated = bytes(raw)
    ours, refusal = read(mutated)
    theirs, verdict = read_by_h11(mutated)
    if verdict == "refused" and not mutated.startswith((b"\r\n", b"\n")):  # h11 takes no empty line in front
        assert refusal is not None or len(ours) <= len(theirs), "h11 refuses it"
    if not llhttp_accepts(mutated):
        assert refusal is not None or any(not request.keep_alive for request in ours), "llhttp refuses it"
    for mine, (method, target, body) in zip(ours, theirs, strict=False):
        assert (mine.method, mine.body) == (method, body)
        assert target.endswith(mine.target) or mine.target == b"/"


def read_by_h11(data: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], str]:
    """Return the complete requests (method, target, body) that h11 sees, and how it ended."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    found = []
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method, event.target, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, target, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return found, "closed"
                connection.start_next_cycle()
            else:
                return found, "incomplete"
    except h11.RemoteProtocolError:
        return found, "refused"


def llhttp_accepts(data: bytes) -> bool:
    try:
        httptools.HttpRequestParser(object()).feed_data(data)
    except httptools.HttpParserUpgrade:
        return True
    except httptools.HttpParserError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=3))
def test_arbitrary_bytes_never_raise(data, cuts):
    read(*split(data, cuts))


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
