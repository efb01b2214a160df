"""What API keys use: added up for people, and shared with the other nodes so that limits hold for all of them.

Each heartbeat carries what the node's own gateways have admitted and charged under each limited key that is in use,
counted from when the key came into use, and how many of its requests are open. The others take the difference to what
they had heard before out of their own buckets. A lost heartbeat is made good by the next one; what several nodes have
admitted at the same time beyond a limit is a debt in all of their buckets, so that it holds again on average.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from shoal.cluster.view import MemberState, View
from shoal.gateway.key_cells import KeyCells
from shoal.gateway.keys import Key, KeyTable
from shoal.gateway.limits import spend
from shoal.gateway.messages import KeyUsage

MOST_SHARED = 400
"""Limited keys in use that a heartbeat carries at most; those used last come first. It has to fit into a datagram."""

_QUIET = 10.0  # s: a key that nobody used for so long is not in use

Shares = dict[str, tuple[int, int, int]]
"""By name of the key: requests admitted, tokens charged, requests open."""


class Used(msgspec.Struct):
    """What a key has used of a model since the node process started, through this node's gateway.

    Attributes:
        requests: that have ended.
        prompt_tokens: of them.
        completion_tokens: of them.
        limited: requests refused by a limit.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    limited: int = 0


class _InUse(msgspec.Struct):
    requests: int  # totals from which on it is counted
    tokens: int
    last: tuple[int, int, int]
    at: float


class KeyAccounts:
    """Accounts of the keys of one node.

    Args:
        cells: shared with the workers.
    """

    def __init__(self, cells: KeyCells) -> None:
        self._cells = cells
        self._limited: dict[str, Key] = {}
        self._totals: dict[str, tuple[int, int, int]] = {}
        self._in_use: dict[str, _InUse] = {}
        self._heard: dict[tuple[str, int], Shares] = {}
        self.used: dict[tuple[str, str], Used] = {}
        """By key and model."""

    def replace(self, table: KeyTable | None) -> None:
        """Take these keys in the place of the former ones."""
        keys = table.keys if table is not None else ()
        limited = {
            key.name: key
            for key in keys
            if (key.requests_per_minute, key.tokens_per_minute, key.max_concurrent) != (None, None, None)
        }
        for name, key in limited.items():
            known = self._limited.get(name)
            if known is None or known.slot != key.slot:
                self._totals[name] = self._cells.totals(key.slot)
                self._in_use.pop(name, None)
        for name in self._limited.keys() - limited.keys():
            self._totals.pop(name, None)
            self._in_use.pop(name, None)
        self._limited = limited

    def account(self, usage: KeyUsage) -> None:
        """Add what a worker has counted."""
        for row in usage.rows:
            used = self.used.setdefault((row.key, row.model), Used())
            used.requests += row.requests
            used.prompt_tokens += row.prompt_tokens
            used.completion_tokens += row.completion_tokens
            used.limited += row.limited

    # Between nodes.

    def shares(self, now: float | None = None) -> Shares:
        """Return what this node's next heartbeat says of the keys."""
        now = time.monotonic() if now is None else now
        for name, key in self._limited.items():
            totals = self._cells.totals(key.slot)
            before = self._totals.get(name, (0, 0, 0))
            self._totals[name] = totals
            if totals != before or totals[2]:
                use = self._in_use.get(name)
                if use is None:
                    self._in_use[name] = _InUse(before[0], before[1], totals, now)
                else:
                    use.last, use.at = totals, now
        in_use = [item for item in self._in_use.items() if now - item[1].at < _QUIET]
        self._in_use = dict(sorted(in_use, key=lambda item: -item[1].at)[:MOST_SHARED])
        return {
            name: (use.last[0] - use.requests, use.last[1] - use.tokens, use.last[2])
            for name, use in self._in_use.items()
        }

    def hear(self, view: View, now: int | None = None) -> None:
        """Take what other nodes have admitted out of the buckets here."""
        now = time.monotonic_ns() if now is None else now
        open_: dict[int, int] = {}
        heard: dict[tuple[str, int], Shares] = {}
        for member in view.members:
            report = member.report
            if member.is_self or report is None:
                continue
            who = (member.name, report.incarnation)
            before = self._heard.get(who)
            for name, share in report.key_use.items():
                key = self._limited.get(name)
                if key is None:
                    continue
                if (
                    before is not None
                ):  # what was used before this node heard of it for the first time is history
                    self._spend(key, share, before.get(name, (0, 0, 0)), now)
                if member.state in (MemberState.ALIVE, MemberState.SUSPECT):
                    open_[key.slot] = open_.get(key.slot, 0) + share[2]
            heard[who] = report.key_use
        self._heard = heard
        row = self._cells.open(self._cells.workers)
        for key in self._limited.values():
            if row[key.slot] != open_.get(key.slot, 0):
                row[key.slot] = open_.get(key.slot, 0)

    def _spend(self, key: Key, share: tuple[int, int, int], before: tuple[int, int, int], now: int) -> None:
        cells = self._cells
        for per_minute, full, total, former in (
            (key.requests_per_minute, cells.requests_full, share[0], before[0]),
            (key.tokens_per_minute, cells.tokens_full, share[1], before[1]),
        ):
            # A number that has become smaller counts from when the key came into use again.
            units = total - former if total >= former else total
            if per_minute is not None and units:
                full[key.slot] = spend(full[key.slot], now, units, per_minute)

    # For people.

    def document(self, table: KeyTable | None) -> list[dict[str, Any]]:
        """Return every key with its limits, and what it has used through this node; plain data, ready for JSON."""
        return [
            {
                "name": key.name,
                "role": "admin" if key.admin else "user",
                "models": sorted(key.models) if key.models is not None else None,
                "requests_per_minute": key.requests_per_minute,
                "tokens_per_minute": key.tokens_per_minute,
                "max_concurrent": key.max_concurrent,
                "priority": key.priority,
                "expires": key.expires,
                "open": self._cells.totals(key.slot)[2],
                "used": {
                    model: msgspec.to_builtins(used)
                    for (name, model), used in self.used.items()
                    if name == key.name
                },
            }
            for key in (table.keys if table is not None else ())
        ]

    def rows(self) -> Iterable[tuple[str, str, Used]]:
        """Yield (key, model, used), for metrics."""
        return ((key, model, used) for (key, model), used in sorted(self.used.items()))
