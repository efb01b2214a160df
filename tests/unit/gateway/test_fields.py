"""Taking header lines out of a head."""

from __future__ import annotations

import pytest

from shoal.gateway.fields import without

HEAD = b"GET / HTTP/1.1\r\nA: 1\r\nBB: 2\r\na: 3\r\nAB: a: 4\r\nC:"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (set(), HEAD),
        ({b"x", b"b", b"1"}, HEAD),
        ({b"a"}, b"GET / HTTP/1.1\r\nBB: 2\r\nAB: a: 4\r\nC:"),
        ({b"c"}, b"GET / HTTP/1.1\r\nA: 1\r\nBB: 2\r\na: 3\r\nAB: a: 4"),
        ({b"c", b"ab", b"bb", b"a"}, b"GET / HTTP/1.1"),
    ],
)
def test_lines_of_the_named_fields_go_and_nothing_else(names, expected):
    assert without(HEAD, names) == expected
    many = {b"z%d" % number for number in range(100)}
    assert without(HEAD, names | many) == expected


def test_thousands_of_names_take_no_more_than_a_moment():
    names = {b"%d" % number for number in range(8000)}
    head = b"GET / HTTP/1.1" + b"".join(b"\r\n%d: x" % number for number in range(8000)) + b"\r\nA: b"
    assert without(head, names) == b"GET / HTTP/1.1\r\nA: b"
