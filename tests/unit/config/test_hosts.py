from __future__ import annotations

import pytest

from shoal.config.hosts import check_bind, check_host, is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "::1",
        "fe80::1",
        "node1.example.com",
        "node_1",
        "localhost",
        "a-b",
        "1und1.de",
    ],
)
def test_addresses_and_names_are_hosts(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("http://node1", "without http://"),
        ("node1:8000", "under `port`"),
        ("[::1]", "without brackets"),
        ("0.0.0.0", "under `bind`"),
        ("::", "under `bind`"),
        ("224.0.0.1", "cannot connect"),
        ("10.0.0", "four numbers"),
        ("256.1.1.1", "four numbers"),
        ("no de", "host name such as"),
        ("-node", "host name such as"),
        ("a..b", "host name such as"),
        ("ünï", "host name such as"),
        ("a" * 64, "host name such as"),
        (".".join(["abc"] * 80), "host name such as"),
    ],
)
def test_anything_else_is_refused_with_advice(host: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        check_host(host)


def test_one_may_listen_on_all_addresses_but_nobody_can_connect_to_them() -> None:
    assert check_bind("0.0.0.0") == "0.0.0.0"
    assert check_bind("::") == "::"


def test_loopback_is_told_by_the_text_alone() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "a.localhost"]))
    assert not any(map(is_loopback, ["10.0.0.1", "0.0.0.0", "node1", "localhost.example.com", "128.0.0.1"]))
