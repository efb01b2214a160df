"""Addresses as connections want them."""

from __future__ import annotations


def reachable(host: str) -> str:
    """Return the address to connect to for one that is listened on: this machine itself where it means all."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_any(host: str) -> bool:
    """Return whether `host`, to be listened on, means all addresses of the machine."""
    return host != reachable(host)


def base_url(host: str, port: int, *, tls: bool = False) -> str:
    """Return ``http://host:port`` (``https`` with `tls`), IPv6 in brackets, for an address that is listened on."""
    host = reachable(host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
