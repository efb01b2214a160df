"""What a request says about its urgency, whom it belongs to, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shoal.gateway.claims import ClaimError, claim, owner, patience
from shoal.gateway.messages import WorkerSettings
from shoal.gateway.request import Request, parse_request
from shoal.gateway.waiting import Claim

SETTINGS = WorkerSettings(index=0, workers=1, node="n", host="h", port=1, control_socket="c")


@dataclass
class Key:
    name: str
    priority: int


def request(*lines: str) -> Request:
    return parse_request("\r\n".join(("GET / HTTP/1.1", "Host: h", *lines)).encode(), SETTINGS)


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ((), b""),
        (("X-Shoal-Priority: 5",), b"5"),
        (("x-shoal-priority:Batch ",), b"batch"),
        (("X-Vllm-Priority: -1",), b"-1"),
        (("X-Vllm-Priority: 1", "x-shoal-priority: 2"), b"2"),
        (("x-shoal-priority: 2", "X-Vllm-Priority: 1"), b"2"),
        (("x-other-priority: 2",), b""),
    ],
)
def test_the_priority_of_a_head_is_found_and_stays_in_it(lines, value):
    got = request(*lines)
    assert got.priority == value
    assert all(line.encode() in got.head for line in lines)


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (b"", None, None),
        (b"", 0, None),
        (b"0", 5, None),
        (b"", 5, Claim(priority=5)),
        (b"", -(2**63), Claim(priority=-(2**63))),
        (b"", 5.0, Claim(priority=5)),
        (b"", " -7 ", Claim(priority=-7)),
        (b"-3", 5, Claim(priority=-3)),
        (b"+3", None, Claim(priority=3)),
        (b"batch", None, Claim(batch=True)),
        (b"batch", 5, Claim(batch=True)),
    ],
)
def test_header_and_body_say_how_urgent_a_request_is(header, body, expected):
    assert claim(header, body) == expected


@pytest.mark.parametrize(
    ("header", "body", "says"),
    [
        (b"high", None, "'high' in the header is neither a whole number nor `batch`"),
        (b"1.5", None, "'1.5'"),
        (b"9223372036854775808", None, "9223372036854775808"),
        (b"9" * 5000, None, "whole number"),
        (b"", "high", "`priority` must be a whole number, not 'high'"),
        (b"", 1.5, "'1.5'"),
        (b"", 2**63, "whole number"),
        (b"", [1], "whole number"),
        (b"", {"a": 1}, "whole number"),
        (b"", float("inf"), "whole number"),
        (b"", "9" * 5000, "whole number"),
    ],
)
def test_a_bad_priority_is_told_with_what_to_do(header, body, says):
    with pytest.raises(ClaimError) as caught:
        claim(header, body)
    assert says in str(caught.value)
    assert "leave" in str(caught.value)


def test_a_request_may_be_less_urgent_than_its_key_but_not_more():
    key = Key("team", 2)
    assert claim(b"", None, key) == Claim(priority=2)
    assert claim(b"", 5, key) == Claim(priority=5)
    assert claim(b"-9", None, key) == Claim(priority=2)
    assert claim(b"batch", None, key) == Claim(priority=2, batch=True)
    assert claim(b"", None, Key("plain", 0)) is None


def test_a_request_belongs_to_its_key_else_its_authorization_else_its_address():
    mine, other = request("Authorization: Bearer sk-1"), request("Authorization: Bearer sk-2")
    assert owner(mine, "10.0.0.1") == owner(request("authorization: Bearer sk-1"), "10.0.0.2")
    assert owner(mine, "10.0.0.1") != owner(other, "10.0.0.1")
    assert "sk-1" not in owner(mine, "10.0.0.1")
    assert owner(request("x-api-key: sk-1"), "10.0.0.1") != "10.0.0.1"
    assert owner(request(), "10.0.0.1") == "10.0.0.1"
    assert owner(mine, "10.0.0.1", Key("team", 0)) == "key team"


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 60),
        ("wait=10", 10),
        ("wait=0", 0),
        ("wait=600", 60),
        ('respond-async, WAIT="7"', 7),
        ("wait=5; foo", 5),
        ("await=5", 60),
        ("wait=soon", 60),
        ("wait=-5", 60),
        ("return=minimal", 60),
    ],
)
def test_a_request_may_say_how_long_it_waits(prefer, seconds):
    lines = () if prefer is None else (f"Prefer: {prefer}",)
    assert patience(request(*lines), 60.0) == seconds
