"""Host names and addresses as they may stand in a configuration."""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_LONGEST_NAME = 253  # RFC 1035, section 2.3.4, in text form


def check_host(text: str) -> str:
    """Return `text` if others can connect to it: an IP address or a host name.

    Raises:
        ValueError: they cannot; the message says what to write.
    """
    address = _address(check_bind(text))
    if address is not None and (address.is_unspecified or address.is_multicast):
        raise ValueError(
            "other nodes cannot connect to that; write an address of the machine, "
            "and the address to listen on under `bind`"
        )
    return text


def check_bind(text: str) -> str:
    """Return `text` if a machine may listen on it: an IP address (``0.0.0.0`` is all of them) or a host name.

    Raises:
        ValueError: it is neither; the message says what to write.
    """
    if "://" in text:
        raise ValueError(f"write the host alone, without {text.partition('://')[0]}://")
    if text.startswith("["):
        raise ValueError("write an IPv6 address without brackets")
    if _address(text) is not None:
        return text
    if re.fullmatch(r"[^:\s]+:\d+", text):
        raise ValueError("write the host alone, and its port under `port`")
    labels = text.split(".")
    if len(text) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("it must be an IP address or a host name such as node1.example.com")
    if labels[
        -1
    ].isdigit():  # no top-level domain is a number, so this was meant to be an address (RFC 1123, 2.1)
        raise ValueError("that is not a whole IPv4 address; it must be four numbers from 0 to 255")
    return text


def is_loopback(host: str) -> bool:
    """Return whether `host`, as written, never leaves this machine: a loopback address or a name of it.

    Names are not resolved, apart from ``localhost`` and the names below it, which RFC 6761 reserves.
    """
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
