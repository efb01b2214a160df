"""API keys for tests."""

from typing import Any

from shoal.gateway.keys import Key, digest_of


def secret(name: str) -> bytes:
    """Return the key of someone."""
    return f"sk-shoal-{name}-0123456789".encode()


def key(name: str, slot: int = 0, **more: Any) -> Key:
    """Return what a gateway knows of it."""
    return Key(name=name, digest=digest_of(secret(name)), slot=slot, **more)


def bearer(name: str) -> str:
    """Return the header line that shows it."""
    return f"Authorization: Bearer {secret(name).decode()}\r\n"
