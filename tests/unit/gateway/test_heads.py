"""Known heads: what was learned from one head never changes what another one means."""

from __future__ import annotations

import random

import pytest

from shoal.gateway.heads import MAX_DIGITS, MAX_KNOWN, MAX_SIZE, KnownRequests, KnownResponse
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.reader import RequestReader
from shoal.gateway.request import Request

SETTINGS = WorkerSettings(
    index=0, workers=1, node="n", host="", port=1, control_socket="", max_body=1000, max_header=8192
)
LINES = (
    b"POST /v1/chat/completions HTTP/1.1",
    b"Host: gateway.example",
    b"Connection: keep-alive, x-hop",
    b"Authorization: Bearer sk-one",
    b"X-Hop: of this connection only",
    b"Content-Length: %d",
    b"X-Last: one",
)


def message(body: bytes, *lines: bytes, instead: dict[int, bytes] | None = None) -> bytes:
    """Return a request like all others here, with more lines, or with other lines in the place of some."""
    parts = [
        *(line if not instead or i not in instead else instead[i] for i, line in enumerate(LINES)),
        *lines,
    ]
    head = b"\r\n".join(part for part in parts if part)
    return head.replace(b"%d", b"%d" % len(body)) + b"\r\n\r\n" + body


def read(heads: KnownRequests | None, *pieces: bytes) -> tuple[list[Request], int | None]:
    """Return the requests in `pieces` as one connection gives them, and the status of a refusal."""
    reader = RequestReader(SETTINGS, heads)
    for piece in pieces:
        reader.feed(piece)
    for request in reader.requests:
        request.known, request.usual = None, False  # all but these are to be the same
    return list(reader.requests), reader.refusal.status if reader.refusal else None


@pytest.fixture
def warm() -> KnownRequests:
    """Heads of a worker that has had this request before."""
    heads = KnownRequests(SETTINGS)
    for body in (b"{}", b"[1]", b"three"):
        read(heads, message(body))
    assert len(heads) == 1, "it is known, or the tests here would test nothing"
    return heads


def test_a_head_is_remembered_when_it_comes_again_with_whatever_length():
    heads = KnownRequests(SETTINGS)
    read(heads, message(b"{}"))
    assert len(heads) == 0
    read(heads, message(b"{...}"))
    assert len(heads) == 1


@pytest.mark.parametrize("size", [1, 2, 9, 10, 99, 100, 1000])
def test_a_known_head_gives_the_same_request_as_one_that_is_judged(warm, size):
    data = message(b"x" * size)
    known, judged = read(warm, data), read(None, data)
    assert known == judged
    assert known[0][0].body == b"x" * size
    assert b"X-Hop" not in known[0][0].head, "what was dropped the first time is dropped again"


def test_a_known_head_with_another_length_has_the_body_of_that_length(warm):
    first, second = message(b"a" * 10), message(b"b" * 123)
    requests, refusal = read(warm, first, second, first + second, second + first)
    assert refusal is None
    assert [request.body for request in requests] == [
        b"a" * 10,
        b"b" * 123,
        b"a" * 10,
        b"b" * 123,
        b"b" * 123,
        b"a" * 10,
    ]


def test_a_known_head_in_pieces_reads_the_same(warm):
    data = message(b"{}" * 30) + message(b"[]" * 30)
    whole = read(None, data)
    for cut in range(1, len(data)):
        assert read(warm, message(b"{}"), data[:cut], data[cut:])[0][1:] == whole[0]


def test_what_follows_a_known_request_is_judged_as_ever(warm):
    good = message(b"{}")
    for bad in (
        b"GET / HTTP/1.1\r\nHost : g\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        good[:-2].replace(b"Host", b"H st"),
    ):
        requests, refusal = read(warm, good, good + bad)
        assert (len(requests), refusal) == (2, 400)


@pytest.mark.parametrize(
    ("lines", "instead"),
    [
        ((b"Content-Length: 3",), {}),
        ((b"Content-Length: %d",), {}),
        ((b"content-length: %d",), {}),
        ((b"Transfer-Encoding: chunked",), {}),
        ((b"Host: other.example",), {}),
        ((b"Expect: 100-continue",), {}),
        ((b"Expect: something",), {}),
        ((b"Connection: close",), {}),
        ((b"Connection: host, content-length",), {}),
        ((b" folded: %d",), {}),
        ((), {0: b"POST /v1/chat/completions HTTP/1.0"}),
        ((), {0: b"POST /v1/chat/completions  HTTP/1.1"}),
        ((), {0: b"HEAD /v1/chat/completions HTTP/1.1"}),
        ((), {0: b"POST http://h/v1/chat/completions HTTP/1.1"}),
        ((), {0: b"POST /v1/completions HTTP/1.1"}),
        ((), {1: b""}),
        ((), {1: b"Host: b@d"}),
        ((), {2: b"Connection: keep-alive, x-hop, close"}),
        ((), {2: b"Connection: upgrade\r\nUpgrade: h2c"}),
        ((), {3: b"Authorization: Bearer sk-two"}),
        ((b"X-Shoal-Priority: 5",), {}),
        ((b"X-Shoal-Priority: batch", b"X-Vllm-Priority: 1"), {}),
        ((), {5: b"Content-Length: +%d"}),
        ((), {5: b"Content-Length: -%d"}),
        ((), {5: b"Content-Length: %d "}),
        ((), {5: b"Content-Length:  %d"}),
        ((), {5: b"Content-Length:%d"}),
        ((), {5: b"Content-Length : %d"}),
        ((), {5: b"Content-Length: 0x%d"}),
        ((), {5: b"Content-Length: 1_%d"}),
        ((), {5: b"Content-Length: %d, %d"}),
        ((), {5: b"Content-Length: %d\r\n %d"}),
        ((), {5: b"Content-Length: "}),
        ((), {5: b"Content-Length: 000000000%d"}),
        ((), {5: b"Content-Length: 0000000000000000%d"}),
        ((), {5: b"Content-Length: 18446744073709551617"}),
        ((), {5: b"Content-Length: \xb2"}),
        ((), {5: b"X-Length: %d"}),
        ((), {5: b"X-Length: 1\r\nContent-Length: %d"}),
        ((), {5: b"Content-Length: %d\r\nX-Length: 1"}),
        ((), {5: b"Content-Length: 1001"}),
        ((), {6: b"X-Last: one\nTransfer-Encoding: chunked"}),
        ((), {6: b"X-Last: one\rTransfer-Encoding: chunked"}),
        ((), {6: b"X-Last: o\0ne"}),
    ],
)
def test_heads_that_are_nearly_known_are_judged_by_themselves(warm, lines, instead):
    """Each on a connection that has just had the known one, alone and together with it."""
    known, near = message(b"hello"), message(b"hello", *lines, instead=instead)
    tail = b"GET /next HTTP/1.1\r\nHost: g\r\n\r\n"
    for pieces in (
        [near],
        [known, near],
        [known, near + tail],
        [known + near],
        [near, near, near + known],
        [near[:-3], near[-3:]],
    ):
        for _ in range(3):  # learned or not
            assert read(warm, *pieces) == read(None, *pieces)


def test_a_length_beyond_the_limit_is_refused_though_the_head_is_known(warm):
    for start in ([], [message(b"{}")]):
        requests, refusal = read(warm, *start, message(b"x" * 1001))
        assert (len(requests), refusal) == (len(start), 413)
    assert len(str(SETTINGS.max_body)) < MAX_DIGITS


def test_field_that_only_ends_like_content_length_is_not_taken_for_it():
    heads = KnownRequests(SETTINGS)
    data = [message(b"x" * 5, instead={5: b"X-Length: 7\r\nContent-Length: %d"}) for _ in range(5)]
    for piece in data:
        assert read(heads, piece) == read(None, piece)
    other = message(b"x" * 5, instead={5: b"X-Length: 1\r\nContent-Length: %d"})
    assert read(heads, other) == read(None, other)
    assert len(heads) == 0


def test_memory_for_heads_is_bounded():
    heads = KnownRequests(SETTINGS)
    for number in range(2 * MAX_KNOWN):
        for _ in range(2):
            read(heads, message(b"{}", b"X-Number: %d" % number))
    assert len(heads) == MAX_KNOWN
    assert read(heads, message(b"{}", b"X-Number: 0")) == read(None, message(b"{}", b"X-Number: 0"))
    large = KnownRequests(SETTINGS)
    for _ in range(3):
        requests, refusal = read(large, message(b"{}", b"X-Large: " + b"x" * MAX_SIZE))
        assert (len(requests), refusal) == (1, None)
    assert len(large) == 0


def test_fuzz_changed_heads_are_judged_the_same_with_heads_known_and_without():
    """Bytes changed in known heads, on connections with and without a history; what is learned stays for the next."""
    chance = random.Random(7)
    heads = KnownRequests(SETTINGS)
    originals = [message(b"x" * size) for size in (1, 5, 10, 99)] + [message(b"{}", b"X-Length: 5")]
    bits = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b"0",
        b"5",
        b"-",
        b"",
        b"x",
        b"\r\nContent-Length: 5",
    ]
    taken = 0
    for _ in range(6000):
        raw = bytearray(chance.choice(originals))
        for _ in range(chance.choice((0, 1, 1, 2))):
            place = chance.randrange(len(raw))
            raw[place : place + chance.randrange(3)] = chance.choice(bits)
        pieces = [
            *chance.choice(([], [originals[1]], [originals[0], originals[2]])),
            bytes(raw) + chance.choice(originals),
        ]
        known, judged = read(heads, *pieces), read(None, *pieces)
        assert known == judged
        taken += known[1] is None and len(known[0]) > 1
    assert taken > 1000
    assert len(heads) > 3


def test_response_heads_are_known_by_the_second_time_and_give_way_to_newer_ones():
    response = KnownResponse(b"\r\nx-line: 1")
    for second in (b"1", b"2"):
        head = (
            b"HTTP/1.1 200 OK\r\ndate: "
            + second
            + b"\r\ncontent-length: 12\r\ncontent-type: application/json"
        )
        for _ in range(2):
            response.learn(head, head)
        known = response.known
        assert known is not None
        assert head + b"\r\n\r\n" == known.before + b"12" + known.after
        assert known.head_before + b"12" + known.head_after == head + b"\r\nx-line: 1\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nx-length: 1\r\ncontent-length: 12",
        b"HTTP/1.1 200 OK\r\ncontent-length:12",
        b"HTTP/1.1 200 OK\r\ncontent-length: 12 ",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_SIZE + b"\r\ncontent-length: 12",
    ],
)
def test_response_heads_of_another_form_are_not_remembered(head):
    response = KnownResponse(b"")
    for _ in range(3):
        response.learn(head, head)
    assert response.known is None
