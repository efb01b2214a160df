"""Which requests a worker has open, for people who want to see them. Nothing is kept for it: it is put together when
somebody asks, from what the exchanges know of themselves, so that the hot path has no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic_ns
from typing import TYPE_CHECKING

from shoal.gateway.exchange import Exchange
from shoal.gateway.messages import OpenRequest
from shoal.gateway.stream import StreamExchange

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection

MOST = 200
"""Requests that are told of at most, the oldest ones."""

_LONGEST = 200  # characters of a path or a name


def open_requests(connections: Iterable[ClientConnection]) -> tuple[OpenRequest, ...]:
    """Return the requests to engines that are open on these connections, the oldest first, `MOST` of them."""
    open_ = [c.exchange for c in connections if c.exchange is not None and c.exchange.route is not None]
    open_.sort(key=lambda exchange: exchange._begun)
    now = monotonic_ns()
    return tuple(_told(exchange, now) for exchange in open_[:MOST])


def _told(exchange: Exchange, now: int) -> OpenRequest:
    request, pool = exchange.request, exchange._pool
    assert exchange.route is not None
    events = resumes = 0
    if isinstance(exchange, StreamExchange):
        events, resumes = exchange._events, exchange._resumes
    return OpenRequest(
        path=request.target.partition(b"?")[0].decode("latin-1")[:_LONGEST],
        model=exchange.route.model_id[:_LONGEST],
        engine=pool.target.id if pool is not None else "",
        client=exchange.client.peer(),
        key=request.key.name if request.key is not None else "",
        age=round((now - exchange._begun) / 1e9, 3),
        stream=request.stream,
        sent=exchange._sent,
        events=events,
        attempts=exchange._attempts,
        resumes=resumes,
    )
