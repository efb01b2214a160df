"""Addresses as connections want them."""

from __future__ import annotations


def reachable(host: str) -> str:
    """Return the address to connect to for one that is listened on: this machine itself where it means all."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def base_url(host: str, port: int) -> str:
    """Return ``http://host:port``, IPv6 in brackets, for an address that is listened on."""
    host = reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
