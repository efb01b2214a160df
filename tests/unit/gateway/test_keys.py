"""Finding the key that a request shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway.keys import Key, Keyring, KeyTable, digest_of, secrets_in, take_credentials

SECRET = b"sk-shoal-" + b"x" * 43
ANNA = Key(name="anna", digest=digest_of(SECRET), slot=0)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n%bUser-Agent: x"


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer %b",
        b"authorization: bearer %b",
        b"AUTHORIZATION:BEARER   %b  ",
        b"Authorization:\t Bearer %b",
        b"x-api-key: %b",
        b"X-API-KEY:%b\t",
    ],
)
def test_a_key_is_found_in_every_way_of_writing_it(line: bytes):
    head, lines = take_credentials(HEAD % (line % SECRET + b"\r\n"))
    assert head == HEAD % b"", "it does not go on to engines"
    ring = Keyring(KeyTable(keys=(ANNA,)))
    assert ring.find(lines) is ANNA
    assert ring.find(lines) is ANNA, "remembered"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Authorization: Basic %b\r\n" % SECRET,
        b"Authorization: %b\r\n" % SECRET,
        b"Authorization: Bearer\r\n",
        b"Authorization: Bearer %b%b\r\n" % (SECRET, b"y"),
        b"Authorization: Bearer %b\r\n" % SECRET[:-1],
        b"Authorization: Bearer %b\r\n" % digest_of(SECRET).hex().encode(),
        b"x-api-key: Bearer %b\r\n" % SECRET,
        b"x-api-key:\r\n",
        b"x-other-key: %b\r\n" % SECRET,
    ],
)
def test_nothing_else_is_a_key(line: bytes):
    _, lines = take_credentials(HEAD % line)
    assert Keyring(KeyTable(keys=(ANNA,))).find(lines) is None


def test_all_lines_that_may_hold_a_key_are_taken_out_and_one_good_key_is_enough():
    lines = b"Authorization: Bearer placeholder\r\nX-Api-Key: %b\r\nauthorization: Basic eDp5\r\n" % SECRET
    head, found = take_credentials(HEAD % lines)
    assert head == HEAD % b""
    assert secrets_in(found) == [b"placeholder", SECRET]
    assert Keyring(KeyTable(keys=(ANNA,))).find(found) is ANNA


def test_what_looks_like_a_header_in_the_request_line_or_a_value_is_none():
    head = (
        b"GET /v1/models?authorization:%20Bearer HTTP/1.1\r\nHost: g\r\nx-note: authorization: Bearer "
        + SECRET
    )
    assert take_credentials(head) == (head, b"")


def test_a_table_knows_only_its_own_keys_however_well_a_former_one_was_remembered():
    ring = Keyring(KeyTable(keys=(ANNA,)))
    line = b"\r\nAuthorization: Bearer " + SECRET
    assert ring.find(line) is ANNA
    assert Keyring(KeyTable()).find(line) is None


def test_what_is_remembered_is_bounded_and_wrong_keys_are_not_remembered():
    ring = Keyring(KeyTable(keys=(ANNA,)))
    for n in range(20_000):
        assert ring.find(b"\r\nAuthorization: Bearer wrong%d" % n) is None
    assert len(ring._known) == 0
    for n in range(10_000):
        line = b"\r\nAuthorization:%bBearer %b\r\nx-api-key: %d" % (b" " * (n % 7), SECRET, n)
        assert ring.find(line) is ANNA
    assert len(ring._known) <= 8192


NAMES = [
    b"Authorization",
    b"authorization",
    b"X-API-Key",
    b"x-api-key",
    b"Host",
    b"x-authorization",
    b"authorization2",
]


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from([b"", b"Bearer a", b"authorization: b", b":"]))
    )
)
def test_what_is_taken_out_is_what_reading_line_by_line_finds(lines: list[tuple[bytes, bytes]]):
    texts = [b"%b: %b" % line for line in lines]
    kept = [
        t
        for t, (name, _) in zip(texts, lines, strict=True)
        if name.lower() not in (b"authorization", b"x-api-key")
    ]
    taken = [t for t in texts if t not in kept]
    head = b"GET / HTTP/1.1"
    found = take_credentials(b"\r\n".join((head, *texts)))
    assert found == (b"\r\n".join((head, *kept)), b"".join(b"\r\n" + t for t in taken))
