from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shoal.cluster import dns
from shoal.cluster.addresses import Contact
from shoal.cluster.dns import Resolver, lookup

Entries = list[tuple[Any, ...]]


def answer(monkeypatch: pytest.MonkeyPatch, function: Callable[[str], list[str]]) -> None:
    def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> Entries:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port)) for address in function(host)]

    monkeypatch.setattr(dns.socket, "getaddrinfo", getaddrinfo)


def test_localhost_resolves_and_nonsense_is_an_os_error() -> None:
    async def scenario() -> None:
        assert ("127.0.0.1", 8000) in await lookup("localhost", 8000, socket.AF_INET)
        with pytest.raises(OSError, match="not a host name"):
            await lookup("a" * 70 + ".example", 8000, socket.AF_INET)

    asyncio.run(scenario())


def test_a_resolver_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(host: str) -> list[str]:
        if host == "hangs":
            release.wait(30)
        return ["10.0.0.7"]

    answer(monkeypatch, hang)

    async def scenario() -> None:
        slow = asyncio.create_task(lookup("hangs", 1, socket.AF_INET))
        assert await lookup("works", 1, socket.AF_INET) == [("10.0.0.7", 1)]
        assert not slow.done()
        slow.cancel()

    asyncio.run(scenario())  # and the loop ends although the thread still hangs
    release.set()


def test_names_are_looked_up_until_they_resolve_and_followed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "_EVERY", 0.01)
    monkeypatch.setattr(dns, "_RETRY", 0.01)
    answers: list[list[str] | None] = [None, None, ["10.0.0.7", "10.0.0.7", "10.0.0.8"], ["10.0.0.9"]]

    def next_answer(_: str) -> list[str]:
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        if now is None:
            raise socket.gaierror(-2, "Name or service not known")
        return now

    answer(monkeypatch, next_answer)
    contact, found, told = Contact.to("node7", 8000), [], []

    async def scenario() -> None:
        resolver = Resolver(socket.AF_INET, lambda c: found.append(c.addresses), told.append)
        resolver.add(contact)
        resolver.add(contact)
        await resolver.tried(5)
        assert told == ["node7 does not resolve: Name or service not known; it is tried again"]
        async with asyncio.timeout(5):
            while contact.addresses != (("10.0.0.9", 8000),):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        resolver.close()

    asyncio.run(scenario())
    assert found == [(("10.0.0.7", 8000), ("10.0.0.8", 8000))]
    assert told[1:] == ["node7 resolves now: 10.0.0.7, 10.0.0.8"]


def test_waiting_for_the_first_lookups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(_: str) -> list[str]:
        release.wait(30)
        return []

    answer(monkeypatch, hang)

    async def scenario() -> None:
        resolver = Resolver(socket.AF_INET, lambda _: None, lambda _: None)
        resolver.add(Contact.to("node7", 8000))
        resolver.add(Contact.to("10.0.0.7", 8000))
        await resolver.tried(0.05)
        resolver.close()

    asyncio.run(scenario())
    release.set()
