"""Where members are: what the file says, what DNS makes of it, and where their datagrams really come from. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

Address = tuple[str, int]
"""Numeric IP address and port."""


def format_address(address: Address) -> str:
    """Return an address for people: ``10.0.0.7:8000``, ``[fd00::7]:8000``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_name(name: str) -> tuple[str, int] | None:
    """Return host and port of a member's name (``host:port``), None if it is not of that form."""
    host, _, port = name.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def normal(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """Return a socket's address without IPv6 extras; IPv4 seen through an IPv6 socket becomes plain IPv4."""
    host, port = address[0], address[1]
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host, port


def is_loopback(host: str) -> bool:
    """Return whether a numeric host is a loopback address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


class Contact(msgspec.Struct):
    """A host and port somebody told us to talk to.

    Attributes:
        host: name or numeric address.
        port: UDP and TCP port.
        addresses: what `host` stands for now; empty until it is resolved.
    """

    host: str
    port: int
    addresses: tuple[Address, ...] = ()

    @classmethod
    def to(cls, host: str, port: int) -> Contact:
        """Return a contact; a numeric host is its own address, a name has none until somebody resolves it."""
        try:
            return cls(host, port, ((str(ipaddress.ip_address(host)), port),))
        except ValueError:
            return cls(host, port)


class AddressBook:
    """The addresses of all members, and of contacts that are no members yet."""

    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}
        self._seen: dict[str, Address] = {}
        self._rumours: dict[str, tuple[Address, float]] = {}

    def add(self, host: str, port: int) -> Contact:
        """Add a contact and return it."""
        return self.contacts.setdefault(f"{host}:{port}", Contact.to(host, port))

    def saw(self, name: str, address: Address) -> Address | None:
        """Take note of where a member's authentic datagram came from; return the earlier address if it moved."""
        before = self._seen.get(name)
        self._seen[name] = address
        self._rumours.pop(name, None)
        return before if before != address else None

    def seen(self, name: str) -> Address | None:
        """Return where a member's datagrams come from, None if there were none."""
        return self._seen.get(name)

    def rumour(self, name: str, address: Address, now: float) -> None:
        """Take note that a member told of another one that we do not know."""
        self._rumours[name] = (address, now)

    def dismiss(self, name: str) -> None:
        """Drop a contact; where a member's datagrams come from stays known."""
        self.contacts.pop(name, None)

    def forget(self, name: str) -> None:
        """Drop what was learned about a member that no longer is one."""
        self._seen.pop(name, None)
        self._rumours.pop(name, None)

    def of(self, name: str) -> tuple[Address, ...]:
        """Return every address that may reach `name`, the likeliest first."""
        return tuple(dict.fromkeys(self._candidates(name)))

    def gateway(self, name: str) -> Address | None:
        """Return where the member's gateway is to be tried: the port is its own one, not what NAT made of it."""
        parts = split_name(name)
        addresses = self.of(name)
        return (addresses[0][0], parts[1]) if parts and addresses else None

    def everybody(self, heard: Iterable[str], now: float, rumours_for: float) -> set[Address]:
        """Return where to send a heartbeat for all.

        Args:
            heard: members that are heard now: they get it at the one address they are heard from.
            now: the time.
            rumours_for: seconds for which members known from others only are tried after they were told of.
        """
        alive = set(heard)
        targets = set(self._seen.values())
        for label, contact in self.contacts.items():
            if label not in alive:
                targets.update(contact.addresses)
        self._rumours = {n: (a, t) for n, (a, t) in self._rumours.items() if now - t < rumours_for}
        targets.update(address for address, _ in self._rumours.values())
        return targets

    def _candidates(self, name: str) -> Iterator[Address]:
        if name in self._seen:
            yield self._seen[name]
        if name in self.contacts:
            yield from self.contacts[name].addresses
        if name in self._rumours:
            yield self._rumours[name][0]
