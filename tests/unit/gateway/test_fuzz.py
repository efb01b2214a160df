"""Differential fuzzing of the request reader: what llhttp or h11 refuse is refused, what all take reads the same."""

from __future__ import annotations

import itertools
import random

import h11
import httptools
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.gateway.heads import KnownRequests
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.reader import RequestReader
from shoal.gateway.request import Request
from support.thorough import tries

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


def read_with(heads: KnownRequests | None, *pieces: bytes) -> tuple[list[Request], int | None]:
    reader = RequestReader(SETTINGS, heads)
    for piece in pieces:
        reader.feed(piece)
    for request in reader.requests:
        request.known, request.usual = None, False  # all but these are to be the same
    return list(reader.requests), reader.refusal.status if reader.refusal else None


KNOWN = KnownRequests(SETTINGS)
"""All that the requests of all tests have taught: a worker's, after a long day."""


def read(*pieces: bytes) -> tuple[list[Request], int | None]:
    """Return the requests in `pieces`, and the status of a refusal: the same whatever heads are known."""
    found = read_with(None, *pieces)
    for _ in range(2):
        assert read_with(KNOWN, *pieces) == found, "known heads change nothing"
    return found


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=tries(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_fuzz_valid_requests_come_out_the_same_however_they_are_cut(messages, cuts):
    data = b"".join(message for message, _ in messages)
    whole, refusal = read(data)
    assert refusal is None
    assert [request.body for request in whole] == [body for _, body in messages]
    assert read(*split(data, cuts)) == (whole, None)


@settings(max_examples=tries(30), deadline=None)
@given(requests(), requests())
def test_fuzz_valid_requests_come_out_the_same_byte_by_byte(first, second):
    data = first[0] + second[0]
    assert read(*(bytes([byte]) for byte in data)) == read(data)


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


def read_by_llhttp(data: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], str]:
    """Return the complete requests (method, target, body) that llhttp sees, and how it ended."""
    found: list[tuple[bytes, bytes, bytes]] = []

    class Events:
        def on_message_begin(self) -> None:
            self.target, self.body = b"", b""

        def on_url(self, data: bytes) -> None:
            self.target += data

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            found.append((parser.get_method(), self.target, self.body))

    parser = httptools.HttpRequestParser(Events())
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return found, "upgrade"  # how it goes on is not llhttp's to say
    except httptools.HttpParserError:
        return found, "refused"
    return found, "taken"


def compare(data: bytes) -> bool:
    """Hold the reader against both others. Return whether all three have taken `data`."""
    ours, refusal = read(data)
    ended = refusal is not None or any(not request.keep_alive for request in ours)
    verdicts = []
    for name, (theirs, verdict) in {"h11": read_by_h11(data), "llhttp": read_by_llhttp(data)}.items():
        verdicts.append(verdict)
        if verdict == "refused" and not (name == "h11" and data.startswith((b"\r\n", b"\n"))):
            # h11 takes no empty line in front, nor between requests, before it knows what follows.
            assert len(ours) <= len(theirs), f"{name} refuses it"
            assert ended or name == "h11", f"{name} refuses it"
        for mine, (method, target, body) in zip(ours, theirs, strict=False):
            assert (mine.method, mine.body) == (method, body), name
            assert target.endswith(mine.target) or mine.target == b"/", name
    return not ended and "refused" not in verdicts


@settings(max_examples=tries(300), deadline=None)
@given(requests(), st.data())
def test_fuzz_mutated_requests_are_judged_as_by_llhttp_and_h11(message, data):
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
    compare(bytes(raw))


def test_fuzz_framings_put_together_at_random_are_judged_as_by_llhttp_and_h11():
    """Many requests out of few parts, each of which is right, nearly right or an attack."""
    chance = random.Random(20_000)
    lines = [
        b"POST / HTTP/1.1",
        b"GET /a HTTP/1.1",
        b"POST / HTTP/1.0",
        b"POST  / HTTP/1.1",
        b"POST http://h/b HTTP/1.1",
    ]
    names = [
        b"Content-Length",
        b"content-length",
        b"Transfer-Encoding",
        b"TRANSFER-ENCODING",
        b"X",
        b"Connection",
    ]
    colons = [b": ", b":", b":\t", b" : ", b":\r\n ", b": \x0b"]
    values = [
        b"0",
        b"5",
        b"005",
        b"5 ",
        b"+5",
        b"5, 5",
        b"chunked",
        b"Chunked",
        b"chunked ",
        b"gzip, chunked",
        b"close",
    ]
    ends = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n"]
    bodies = [
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
    ]
    taken = 0
    for _ in range(20_000):
        parts = [
            chance.choice(lines[: chance.choice((1, 5))]),
            chance.choice(ends),
            b"Host: g",
            chance.choice(ends),
        ]
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            colon = chance.choice(colons[: chance.choice((1, 6))])
            parts += [chance.choice(names), colon, chance.choice(values), chance.choice(ends)]
        parts += [chance.choice(ends), chance.choice(bodies)]
        taken += compare(b"".join(parts) + b"GET /next HTTP/1.1\r\nHost: g\r\n\r\n")
    assert taken > 500, "enough of them are right, or nothing would have been compared"
    assert len(KNOWN) > 20, "and enough of their heads are known"


@settings(max_examples=tries(200), deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=3))
def test_fuzz_arbitrary_bytes_never_raise(data, cuts):
    read(*split(data, cuts))
