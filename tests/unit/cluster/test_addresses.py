from __future__ import annotations

import pytest

from shoal.cluster.addresses import AddressBook, Contact, format_address, is_loopback, normal, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("node1.example.com:1", ("node1.example.com", 1)),
        ("::1:8000", ("::1", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("host", None),
        (":8000", None),
        ("host:0", None),
        ("host:65536", None),
        ("host:٣", None),
        ("host:-1", None),
    ],
)
def test_names_are_split_into_host_and_port(name: str, parts: tuple[str, int] | None) -> None:
    assert split_name(name) == parts


def test_addresses_are_written_for_people_and_compared_in_one_form() -> None:
    assert format_address(("10.0.0.7", 8000)) == "10.0.0.7:8000"
    assert format_address(("fd00::7", 8000)) == "[fd00::7]:8000"
    assert normal(("::ffff:10.0.0.7", 8000, 0, 0)) == ("10.0.0.7", 8000)
    assert normal(("fd00::7", 8000, 0, 0)) == ("fd00::7", 8000)
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "10.0.0.7", "fe80::1%eth0", "name")] == [
        1,
        1,
        0,
        0,
        0,
    ]


def test_a_numeric_contact_needs_no_resolving_and_a_name_does() -> None:
    assert Contact.to("10.0.0.7", 8000).addresses == (("10.0.0.7", 8000),)
    assert Contact.to("node7", 8000).addresses == ()


def test_a_member_that_is_heard_gets_heartbeats_where_it_is_heard_from_and_a_silent_one_everywhere() -> None:
    book = AddressBook()
    book.add("node7", 8000).addresses = (("10.0.0.7", 8000), ("10.1.0.7", 8000))
    assert book.saw("node7:8000", ("192.0.2.1", 40000)) is None
    assert book.everybody(["node7:8000"], 0, 1) == {("192.0.2.1", 40000)}
    assert book.everybody([], 0, 1) == {("192.0.2.1", 40000), ("10.0.0.7", 8000), ("10.1.0.7", 8000)}
    assert book.of("node7:8000")[0] == ("192.0.2.1", 40000)
    assert book.gateway("node7:8000") == ("192.0.2.1", 8000)
    assert book.saw("node7:8000", ("192.0.2.1", 40000)) is None
    assert book.saw("node7:8000", ("192.0.2.2", 40000)) == ("192.0.2.1", 40000)


def test_members_known_from_others_are_tried_for_a_while_only() -> None:
    book = AddressBook()
    book.rumour("x:1", ("10.0.0.9", 1), now=5.0)
    assert book.everybody([], 6, rumours_for=4) == {("10.0.0.9", 1)}
    assert book.everybody([], 9, rumours_for=4) == set()
    assert book.of("x:1") == ()
    assert book.gateway("x:1") is None


def test_a_forgotten_member_has_no_address() -> None:
    book = AddressBook()
    book.saw("x:1", ("10.0.0.9", 1))
    book.forget("x:1")
    assert (book.of("x:1"), book.seen("x:1")) == ((), None)
