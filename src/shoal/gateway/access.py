"""Who may do what in one worker: the key of each request, what it allows, and what it has used."""

from __future__ import annotations

import time
from collections.abc import Callable

from shoal.gateway.fields import without
from shoal.gateway.key_cells import KeyCells
from shoal.gateway.keys import Key, Keyring, KeyTable, digest_of, secrets_in
from shoal.gateway.limits import Limiter
from shoal.gateway.messages import KeyUsage, UsageRow
from shoal.gateway.paths import Endpoint
from shoal.gateway.request import Request
from shoal.gateway.responses import Answer, error
from shoal.gateway.usage import Usage

_ENGINES = (Endpoint.JSON, Endpoint.FORM, Endpoint.BARE)
_OPEN = (Endpoint.HEALTH, Endpoint.VERSION, Endpoint.CONSOLE, None)
_SELF = b"/shoal/v1/self"  # says no more than /version, and a node that starts asks it who has its port
_METRICS = (b"/metrics", b"/metrics/cluster")
_ONLY_OURS = frozenset((b"x-shoal-key", b"x-shoal-key-role", b"x-shoal-from-node"))
_CHALLENGE = (b"www-authenticate: Bearer",)  # RFC 9110, 15.5.2
_NO_KEY = error(
    401,
    "This gateway needs an API key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`.",
    code="missing_api_key",
    headers=_CHALLENGE,
)
_UNKNOWN = error(
    401,
    "This API key is not valid here. It may have been revoked; ask whoever runs this gateway for one.",
    code="invalid_api_key",
    headers=_CHALLENGE,
)
_EXPIRED = error(
    401,
    "This API key has expired; ask whoever runs this gateway for another one.",
    code="expired_api_key",
    headers=_CHALLENGE,
)
_NOT_ADMIN = error(
    403,
    "This path is for admin keys only (`shoal keys new NAME --admin`).",
    code="admin_key_required",
)


class Access:
    """Keys and limits in one worker.

    Args:
        table: the keys.
        cells: what the node's workers share.
        worker: index of this worker.
        report: takes what was used to the node process.
    """

    __slots__ = ("_keyring", "_open_metrics", "_report", "_scrape", "_used", "limiter", "unlimited")

    def __init__(
        self, table: KeyTable, cells: KeyCells, worker: int, report: Callable[[KeyUsage], None]
    ) -> None:
        self.limiter = Limiter(cells, worker)
        self._report = report
        self._used: dict[tuple[str, str], list[int]] = {}
        self.replace(table)

    def replace(self, table: KeyTable) -> None:
        """Take these keys in the place of the former ones. Requests under way go on."""
        self._keyring = keyring = Keyring(table)
        self.unlimited = keyring.unlimited
        self._open_metrics = table.open_metrics
        self._scrape = table.scrape

    def check(self, request: Request, endpoint: Endpoint | None) -> Answer | None:
        """Find the key of a request and judge whether it opens what it asks for. Return the refusal if not."""
        if endpoint in _OPEN:
            return None
        admin = False
        if endpoint is Endpoint.CONTROL:
            path = request.target.partition(b"?")[0]
            if path == _SELF or (path in _METRICS and (self._open_metrics or self._scrapes(request))):
                return None
            admin = not path.startswith(b"/v1/")
        elif request.method == b"OPTIONS" and endpoint in _ENGINES:
            return None  # a CORS preflight, which browsers send without a key; vLLM lets it pass, too
        key = self._keyring.find(request.credentials)
        if key is None:
            return _UNKNOWN if request.credentials else _NO_KEY
        if key.expires is not None and time.time() >= key.expires:
            return _EXPIRED
        if admin and not key.admin:
            return _NOT_ADMIN
        request.key = key
        return None

    def _scrapes(self, request: Request) -> bool:
        """Whether a request shows the key for metrics."""
        return bool(self._scrape) and self._scrape in map(digest_of, secrets_in(request.credentials))

    def enter(self, key: Key, model: str) -> Answer | None:
        """Admit a request to a model, which has to `leave` later; or return the answer that refuses it."""
        refusal = self.limiter.enter(key)
        if refusal is not None:
            self._row(key, model)[3] += 1
        return refusal

    def leave(self, key: Key, model: str, usage: Usage | None) -> None:
        """Note the end of a request that was admitted, and what it has taken; None if nothing, or nobody knows."""
        self.limiter.leave(key)
        row = self._used.get((key.name, model)) or self._row(key, model)
        row[0] += 1
        if usage is not None:
            row[1] += usage.prompt
            row[2] += usage.completion
            self.limiter.charge(key, usage.prompt + usage.completion)

    def flush(self) -> None:
        """Tell the node process what was used since the last time. To be called about once a second."""
        if self._used:
            rows = tuple([UsageRow(key, model, *counts) for (key, model), counts in self._used.items()])
            self._used.clear()
            self._report(KeyUsage(rows))

    def _row(self, key: Key, model: str) -> list[int]:
        row = self._used.get((key.name, model))
        if row is None:
            row = self._used[key.name, model] = [0, 0, 0, 0]
        return row


def identified(head: bytes, key: Key | None) -> bytes:
    """Return the head of a request for the control app, which learns from it whose key opened the way.

    Args:
        head: as its client has sent it; what a client says of itself in these fields is taken out.
        key: of the request, None where nobody needs one.
    """
    if b"\r\nx-shoal-" in head.lower():
        head = without(head, _ONLY_OURS)
    if key is not None:
        role = b"admin" if key.admin else b"user"
        head += b"\r\nx-shoal-key: %b\r\nx-shoal-key-role: %b" % (key.name.encode(), role)
    return head


def model_refusal(key: Key | None, model: str) -> Answer | None:
    """Return the answer to a request for a model that its key does not open, None where it does or nobody asks."""
    if key is None or key.models is None or model in key.models:
        return None
    allowed = ", ".join(sorted(key.models)) or "none"
    text = f"API key {key.name!r} may not use the model {model[:200]!r}; it may use: {allowed}."
    return error(403, text, code="model_not_allowed", param="model")
