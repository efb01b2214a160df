"""Limits of API keys: how many requests and tokens a minute, how many requests at once.

Token buckets that hold a minute's worth, written down as the time when the bucket is full again (the *theoretical
arrival time* of GCRA, ITU-T I.371): one number per bucket, which all workers of a node share. Requests are paid for
when they are admitted. Tokens are paid for afterwards, with the engine's own usage numbers: a request is admitted
while there is anything in the bucket; what it turns out to have taken beyond that is a debt that has to be paid first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from shoal.gateway.key_cells import KeyCells
from shoal.gateway.keys import Key
from shoal.gateway.responses import Answer, error

MINUTE = 60_000_000_000
"""ns in a minute: what a full bucket holds, in time."""

MOST_DEBT = 24 * 60 * MINUTE
"""ns: a bucket is full again within a day, whatever was taken out; so the numbers stay within their cells."""

_SECOND = 1_000_000_000
_RETRY_OPEN = 1  # s: when a request of the key ends nobody knows


def cost(units: int, per_minute: int) -> int:
    """Return the time in ns in which a bucket refills by `units`."""
    return units * MINUTE // per_minute


def left(full_at: int, now: int, per_minute: int) -> int:
    """Return the units in a bucket, at most `per_minute`; below 0 it is in debt."""
    return (MINUTE - max(0, full_at - now)) * per_minute // MINUTE


def wait_for(full_at: int, now: int, units: int, per_minute: int) -> int:
    """Return the ns until there are `units` in a bucket, at most 0 if they are there."""
    return max(full_at, now) + cost(units, per_minute) - MINUTE - now


def spend(full_at: int, now: int, units: int, per_minute: int) -> int:
    """Return when a bucket will be full once `units` are taken out."""
    return min(max(full_at, now) + cost(units, per_minute), now + MOST_DEBT)


def duration(ns: int) -> str:
    """Return a time as OpenAI writes it in ``x-ratelimit-reset-*``: ``17ms``, ``1.2s``, ``6m0s``."""
    milliseconds = math.ceil(max(0, ns) / 1_000_000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


class Limiter:
    """Admits requests as their keys' limits allow, in one worker.

    Args:
        cells: shared with the other workers of the node.
        worker: index of this worker.
        clock: ns of a clock that all of them share.
    """

    def __init__(self, cells: KeyCells, worker: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._cells = cells
        self._clock = clock
        self._open = cells.open(worker)
        self._requests = cells.requests(worker)
        self._tokens = cells.tokens(worker)
        cells.clear_open(worker)

    def enter(self, key: Key) -> Answer | None:
        """Admit a request, which has to `leave` later; or return the 429 that refuses it."""
        slot = key.slot
        most, per_minute, tokens = key.max_concurrent, key.requests_per_minute, key.tokens_per_minute
        if most is not None and self._cells.all_open(slot) >= most:
            return self._too_many_open(key, most)
        if per_minute is not None or tokens is not None:
            now = self._clock()
            if tokens is not None:
                wait = wait_for(self._cells.tokens_full[slot], now, 1, tokens)
                if wait > 0:
                    return self._refusal(key, "tokens", tokens, wait, now)
            if per_minute is not None:
                full = self._cells.requests_full
                wait = wait_for(full[slot], now, 1, per_minute)
                if wait > 0:
                    return self._refusal(key, "requests", per_minute, wait, now)
                price = MINUTE // per_minute
                # In one line, so that as little time as may be lies between reading and writing, see `key_cells`. It
                # is within a minute of now: there was enough in the bucket.
                full[slot] = full[slot] + price if full[slot] > now else now + price
        self._open[slot] += 1
        self._requests[slot] += 1
        return None

    def leave(self, key: Key) -> None:
        """Note the end of a request that was admitted."""
        self._open[key.slot] -= 1

    def charge(self, key: Key, tokens: int) -> None:
        """Take tokens out of a key's bucket, whatever is in it."""
        slot = key.slot
        self._tokens[slot] += tokens
        if key.tokens_per_minute is not None:
            full = self._cells.tokens_full
            full[slot] = spend(full[slot], self._clock(), tokens, key.tokens_per_minute)

    def header_lines(self, key: Key, now: int | None = None) -> tuple[bytes, ...]:
        """Return the header lines that tell a client where it stands, in OpenAI's words; none for a key without."""
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return ()
        lines: list[bytes] = []
        cells = self._cells
        for what, per_minute, full in (
            ("requests", key.requests_per_minute, cells.requests_full),
            ("tokens", key.tokens_per_minute, cells.tokens_full),
        ):
            if per_minute is None:
                continue
            if now is None:
                now = self._clock()
            full_at = full[key.slot]
            lines += (
                b"x-ratelimit-limit-%b: %d" % (what.encode(), per_minute),
                b"x-ratelimit-remaining-%b: %d" % (what.encode(), max(0, left(full_at, now, per_minute))),
                b"x-ratelimit-reset-%b: %b" % (what.encode(), duration(full_at - now).encode()),
            )
        return tuple(lines)

    def _refusal(self, key: Key, what: str, limit: int, wait: int, now: int) -> Answer:
        text = (
            f"Rate limit reached for API key {key.name!r} on {what} per minute: the limit is {limit}. "
            f"Try again in {duration(wait)}."
        )
        retry_after = b"retry-after: %d" % math.ceil(wait / _SECOND)
        headers = (retry_after, *self.header_lines(key, now))
        return error(429, text, code="rate_limit_exceeded", kind=what, headers=headers)

    def _too_many_open(self, key: Key, most: int) -> Answer:
        text = (
            f"API key {key.name!r} has as many requests open as it may have at the same time, {most}. "
            "Try again when one of them is finished."
        )
        headers = (b"retry-after: %d" % _RETRY_OPEN, *self.header_lines(key))
        return error(429, text, code="rate_limit_exceeded", kind="concurrent_requests", headers=headers)
