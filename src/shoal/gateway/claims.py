"""How urgent a request is, whom it belongs to, and how long it may wait: read from its head and body."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from shoal.gateway.request import Request
from shoal.gateway.waiting import Claim

_INT64 = range(-(2**63), 2**63)  # vLLM's bounds (entrypoints/openai/*/protocol.py)
_NUMBER = re.compile(rb"[+-]?[0-9]{1,20}")
# RFC 7240, section 4.3: for how many seconds the client is willing to wait.
_WAIT = re.compile(rb"(?i)(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?:$|[,;])")


class Key(Protocol):
    """What of an API key matters here."""

    @property
    def name(self) -> str:
        """Of the key, for people."""
        ...

    @property
    def priority(self) -> int:
        """The most urgent priority its requests may have, and the one they have if they say nothing."""
        ...


class ClaimError(Exception):
    """A priority that is none; ``str(error)`` is a sentence for the client."""


def claim(header: bytes, body: object, key: Key | None = None) -> Claim | None:
    """Return the claim of a request, None for an ordinary one.

    A header wins over the body, as in vLLM. A request may be less urgent than its key allows, never more.

    Args:
        header: value of ``x-shoal-priority`` or ``x-vllm-priority``, ``b""`` without either.
        body: the field ``priority`` of the body, as it came; None without it.
        key: the API key it came with.

    Raises:
        ClaimError: the priority is no whole number, and not ``batch``.
    """
    if header:
        if header.lower() == b"batch":
            return Claim(batch=True, priority=key.priority if key is not None else 0)
        if not _NUMBER.fullmatch(header) or int(header) not in _INT64:
            raise ClaimError(
                f"The priority {header[:40].decode('latin-1')!r} in the header is neither a whole number nor `batch`. "
                "Lower numbers go first, 0 is ordinary; leave the header out for that."
            )
        priority: int | None = int(header)
    else:
        priority = None if body is None else _whole(body)
    if key is not None:
        priority = key.priority if priority is None else max(priority, key.priority)
    return Claim(priority=priority) if priority else None


def _whole(value: object) -> int:
    """Return what vLLM makes of the field, which takes ``5``, ``5.0`` and ``"5"`` for the same."""
    text = value.strip() if isinstance(value, str) else ""
    number: int | None = None
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    elif _NUMBER.fullmatch(text.encode()):
        number = int(text)
    if number is None or number not in _INT64:
        raise ClaimError(
            f"The field `priority` must be a whole number, not {str(value)[:40]!r}. Lower numbers go first, 0 is "
            "ordinary; leave the field out for that."
        )
    return number


def owner(request: Request, peer: str, key: Key | None = None) -> str:
    """Return whom a request belongs to: its key, else whatever the client authorises itself with, else its address.

    Args:
        request: the request.
        peer: IP address of its client.
        key: the API key it came with.
    """
    if key is not None:
        return f"key {key.name}"
    authorization = request.header(b"authorization") or request.header(b"x-api-key")
    if authorization:  # not kept as it is: it is a secret
        return hashlib.blake2b(authorization, digest_size=8).hexdigest()
    return peer


def patience(request: Request, most: float) -> float:
    """Return the seconds a request may wait: what it says itself (``Prefer: wait=N``), `most` at most."""
    return patience_of(request.header(b"prefer"), most)


def patience_of(prefer: bytes, most: float) -> float:
    """Return the same for the value of a header ``Prefer``, ``b""`` without one."""
    preferred = _WAIT.search(prefer)
    return min(most, float(preferred[1])) if preferred else most
