"""Names to addresses, without ever blocking the event loop or the end of the process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Final

from shoal.cluster.addresses import Address, Contact, normal

_EVERY: Final = 30.0
_RETRY: Final = 5.0
_MAX_ADDRESSES: Final = 4
"""How many addresses of one name are tried."""


class Resolver:
    """Keeps contacts' addresses up to date: they change, and DNS may come up after us.

    Args (of the constructor):
        family: of the socket that sends to them.
        found: called when a contact has got its first addresses.
        tell: called with a sentence when a name does not resolve, and when it does again.
    """

    def __init__(self, family: int, found: Callable[[Contact], None], tell: Callable[[str], None]) -> None:
        self._family = family
        self._found = found
        self._tell = tell
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tried: dict[tuple[str, int], asyncio.Event] = {}

    def add(self, contact: Contact) -> None:
        """Look after a contact; a numeric one needs nothing."""
        key = (contact.host, contact.port)
        if not contact.addresses and key not in self._tasks:
            self._tried[key] = asyncio.Event()
            self._tasks[key] = asyncio.get_running_loop().create_task(self._keep(contact, self._tried[key]))

    async def tried(self, timeout: float) -> None:
        """Wait until every name was looked up once, whatever came out, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                for event in list(self._tried.values()):
                    await event.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """End all lookups."""
        for task in self._tasks.values():
            task.cancel()

    async def _keep(self, contact: Contact, tried: asyncio.Event) -> None:
        failing = False
        while True:
            try:
                addresses = await lookup(contact.host, contact.port, self._family)
            except OSError as error:
                if not failing:
                    self._tell(
                        f"{contact.host} does not resolve: {error.strerror or error}; it is tried again"
                    )
                failing = True
            else:
                new = not contact.addresses
                contact.addresses = tuple(dict.fromkeys(addresses))[:_MAX_ADDRESSES]
                if failing:
                    self._tell(f"{contact.host} resolves now: {', '.join(a[0] for a in contact.addresses)}")
                failing = False
                if new:
                    self._found(contact)
            tried.set()
            await asyncio.sleep(_RETRY if failing else _EVERY)


async def lookup(host: str, port: int, family: int) -> list[Address]:
    """Return the UDP addresses of `host` that a socket of `family` can send to.

    Each lookup has a thread of its own: a resolver that hangs must not starve the event loop's shared pool, nor keep
    the process from ending.

    Raises:
        OSError: the name does not resolve (`socket.gaierror` among them).
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[list[Address]] = loop.create_future()

    def resolve() -> None:
        # An IPv6 socket reaches IPv4 hosts as well, through mapped addresses.
        flags = socket.AI_V4MAPPED | socket.AI_ALL if family == socket.AF_INET6 else 0
        found: list[Address] | Exception
        try:
            entries = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM, flags=flags)
            found = [normal((str(entry[4][0]), int(entry[4][1]))) for entry in entries]
        except UnicodeError as error:  # a label that is empty or too long never gets to the resolver
            found = OSError(f"not a host name: {error}")
        except OSError as error:
            found = error
        try:
            loop.call_soon_threadsafe(settle, found)
        except RuntimeError:
            return  # the loop was closed meanwhile: nobody waits any more

    def settle(found: list[Address] | Exception) -> None:
        if outcome.done():
            return
        if isinstance(found, Exception):
            outcome.set_exception(found)
        else:
            outcome.set_result(found)

    threading.Thread(target=resolve, name=f"shoal-dns-{host}", daemon=True).start()
    return await outcome
