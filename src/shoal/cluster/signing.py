"""Signed requests: how nodes and commands prove over HTTP that they know the cluster secret. No I/O.

A request carries the header `HEADER`, ``1 TIME NONCE MAC``: when it was made (seconds since the epoch), 16 random
bytes, and HMAC-SHA256 over both, the method, the target and the body's SHA-256, under a key derived from the
secret. It is taken once, and only within `WINDOW` seconds of its making. The answer is signed under the request's
nonce, so that whoever asked knows that a member answered, and answered this.

Without a secret (clusters on loopback only) the key is a constant, as for heartbeats: then this guards against web
pages and mistakes, not against other users of the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shoal.cluster.wire import derive_key

HEADER: Final = "shoal-signature"  # x-shoal-... are the gateway's own, it takes them out of answers
WINDOW: Final = 60.0
"""Seconds by which the clocks of two machines may differ."""
_MOST_NONCES: Final = 100_000
_VERSION: Final = "1"


class NotSignedError(Exception):
    """A request or an answer does not prove that its sender knows the cluster's secret. The text is for people."""


class Signer:
    """Signs and checks for one cluster.

    Args:
        cluster: the cluster's name.
        secret: its secret, None for one on loopback.
        clock: returns the seconds since the epoch.
    """

    def __init__(self, cluster: str, secret: str | None, clock: Callable[[], float]) -> None:
        self._key = derive_key(secret, f"requests of cluster {cluster}")
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def sign(self, method: str, target: str, body: bytes = b"") -> str:
        """Return the value of `HEADER` for a request; `target` is its path with its query."""
        stamp, nonce = f"{self._clock():.3f}", secrets.token_hex(16)
        return f"{_VERSION} {stamp} {nonce} {self._mac(stamp, nonce, method, target, body)}"

    def check(self, header: str | None, method: str, target: str, body: bytes = b"") -> str:
        """Take a request; return its nonce, to sign the answer with.

        Raises:
            NotSignedError: the signature is missing, wrong, old, or came before.
        """
        if header is None:
            raise NotSignedError(
                "this needs the cluster's secret: use the `shoal` command with --config FILE or SHOAL_SECRET"
            )
        version, stamp, nonce, mac = _parts(header)
        if version != _VERSION or not hmac.compare_digest(mac, self._mac(stamp, nonce, method, target, body)):
            raise NotSignedError(
                "the signature does not verify: the cluster secrets (or cluster names) differ"
            )
        now = self._clock()
        if not abs(now - float(stamp)) <= WINDOW:  # so written, it refuses NaN as well
            raise NotSignedError(
                f"the request was made {now - float(stamp):.0f} s ago by this machine's clock: set the clocks right"
            )
        while self._seen and (len(self._seen) >= _MOST_NONCES or next(iter(self._seen.values())) < now):
            self._seen.popitem(last=False)
        if nonce in self._seen:
            raise NotSignedError("this request came before")
        self._seen[nonce] = now + 2 * WINDOW
        return nonce

    def sign_answer(self, nonce: str, status: int, body: bytes) -> str:
        """Return the value of `HEADER` for the answer to the request with this nonce."""
        return self._mac(nonce, str(status), body)

    def check_answer(self, header: str | None, request: str, status: int, body: bytes) -> None:
        """Check an answer.

        Args:
            header: the answer's.
            request: the header of the request.
            status: HTTP status of the answer.
            body: its body.

        Raises:
            NotSignedError: no member of this cluster gave it.
        """
        expected = self.sign_answer(_parts(request)[2], status, body)
        if header is None or not hmac.compare_digest(header, expected):
            raise NotSignedError(
                "the answer is not signed with this cluster's secret: the secrets (or cluster names) differ"
            )

    def _mac(self, *parts: str | bytes) -> str:
        *words, body = parts
        digest = hashlib.sha256(body if isinstance(body, bytes) else body.encode()).hexdigest()
        text = "\n".join([*(str(word) for word in words), digest])
        return hmac.digest(self._key, text.encode(), "sha256").hex()


def _parts(header: str) -> tuple[str, str, str, str]:
    parts = header.split(" ")
    if len(parts) != 4 or not all(part.isascii() for part in parts):
        raise NotSignedError("the signature is none")
    try:
        float(parts[1])
    except ValueError:
        raise NotSignedError("the signature is none") from None
    return parts[0], parts[1], parts[2], parts[3]
