"""Whether a request goes to an engine at once or waits, and what becomes of it then.

Where an engine has room beyond doubt a request never comes here (`Route.admit`). The caps hold for all gateways
together, as far as the shared counts tell; each worker has a queue of its own. So that a worker whose requests fill an
engine does not keep others out by giving each place that becomes free to the next of its own, workers in which requests
wait share the engines equally: one that has its share leaves free places to the others.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING

from shoal.gateway import claims
from shoal.gateway.counters import Cell
from shoal.gateway.responses import Answer, error
from shoal.gateway.waiting import ORDINARY, Claim, Ticket, WaitingQueue

if TYPE_CHECKING:
    from shoal.gateway.context import Gateway, Route
    from shoal.gateway.exchange import Exchange
    from shoal.gateway.pool import Pool

POLL = 0.025
"""Seconds between two looks, while requests wait, for places that other workers and nodes have freed."""

_LONGEST_RETRY = 60  # s: OpenAI's clients do not wait longer for a Retry-After, most versions ignore it then


class Admission:
    """The requests of one worker that wait for the engines of one model.

    Args:
        gateway: the worker's shared state.
        model: the model's name in the configuration.

    Attributes:
        waiting: requests that wait.
        slot: the model's column in the shared counts of what waits.
    """

    __slots__ = ("_gateway", "_model", "_pumping", "_queue", "_timer", "_usable", "slot", "waiting")

    def __init__(self, gateway: Gateway, model: str) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._model = model
        self._queue: WaitingQueue[Exchange] = WaitingQueue(settings.max_queued, settings.max_queued_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._usable = True  # what waits could start if there were room
        self.waiting = 0
        self.slot = 0

    def enter(self, exchange: Exchange) -> None:
        """Send a new request to an engine that has room, or let it wait."""
        gateway, request = self._gateway, exchange.request
        claim = request.claim or ORDINARY
        first = self._queue.next()
        if first is None or claim.rank < first.rank:
            pool = self._place(exchange, claim.batch, patient=False)
            if pool is None and request.method == b"OPTIONS":  # a CORS preflight: takes nothing of an engine
                assert exchange.route is not None
                pool = exchange.route.choose((), gateway, exchange.request)
            if pool is not None:
                exchange.begin(pool)
                return
        now = gateway.now()
        patience = claims.patience(request, math.inf if claim.batch else gateway.settings.max_wait)
        ticket, displaced = self._queue.offer(
            exchange,
            claim,
            claims.owner(request, exchange.client.peer(), request.key),
            size=len(request.body),
            now=now,
            deadline=now + patience,
        )
        if displaced is not None:
            self._refuse(displaced.item, claim)
        if ticket is None:
            self._refuse(exchange, claim)
            return
        exchange.waits_for(partial(self._leave, ticket))
        self._note()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._poll)
        if first is not None:
            self.pump()

    def pump(self) -> None:
        """Start those that wait, in their order, as far as engines have room."""
        if self._pumping:
            return
        self._pumping = True
        try:
            queue = self._queue
            while (ticket := queue.next()) is not None:
                exchange = ticket.item
                pool = self._place(exchange, ticket.rank[0], patient=True)
                if pool is None:
                    break
                now = self._gateway.now()
                queue.start(ticket, now)
                self._note()
                waited = now - ticket.since
                cells = self._gateway.cells
                cells[Cell.QUEUED] += 1
                cells[Cell.QUEUE_MICROSECONDS] += int(waited * 1e6)
                exchange.waited = waited
                exchange.begin(pool)
        finally:
            self._pumping = False

    def _place(self, exchange: Exchange, batch: bool, *, patient: bool) -> Pool | None:
        """Return an engine with room for a request, None if there is none that this worker may use."""
        gateway = self._gateway
        assert exchange.route is not None
        # The table may have changed while it waited.
        route = gateway.routes.get(exchange.route.model_id) or self._any_route()
        if route is None or not route.pools:
            self._usable = False
            return None
        exchange.route = route
        if not route.capped:
            return route.choose((), gateway, exchange.request)
        pools = route.usable(gateway, patient=patient)
        if patient:
            self._usable = bool(pools)
        others = self._gateways_elsewhere()
        if others and (batch or route.held() >= route.share(others + 1)):
            return None
        return route.choose_with_room(gateway, pools, exchange.request, batch=batch)

    def _any_route(self) -> Route | None:
        """Return a route to the model's engines: for a name, a LoRA adapter's, that none of them has any longer."""
        return next((route for route in self._gateway.routes.values() if route.admission is self), None)

    def _gateways_elsewhere(self) -> int:
        """Return the other workers, of all nodes, in which requests for this model wait."""
        metrics, index = self._gateway.metrics, self._gateway.settings.index
        others = metrics.elsewhere[self.slot]
        for worker, waiting in enumerate(metrics.waiting_column(self.slot)):
            others += waiting > 0 and worker != index
        return others

    def _poll(self) -> None:
        self._timer = None
        for ticket in self._queue.expired(self._gateway.now()):
            self._gateway.cells[Cell.QUEUE_TIMEOUTS] += 1
            self._turn_away(ticket.item, self._late(ticket))
        self.pump()
        self._note()
        if self.waiting:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._poll)

    def _leave(self, ticket: Ticket[Exchange]) -> None:
        """The client of a request that waits has gone."""
        self._queue.leave(ticket, self._gateway.now())
        self._gateway.cells[Cell.QUEUE_DEPARTURES] += 1
        self._note()

    def _note(self) -> None:
        """Let everybody who counts know how many wait: for room, and not for an engine that this worker can reach."""
        self.waiting = len(self._queue)
        if not self.waiting:
            self._usable = True
        self._gateway.waiting_row[self.slot] = self._queue.interactive if self._usable else 0

    # Those that find no place.

    def _refuse(self, exchange: Exchange, claim: Claim) -> None:
        self._gateway.cells[Cell.QUEUE_REFUSALS] += 1
        retry = self._retry_after(claim)
        text = (
            f"The engines of model {self._model!r} are busy and {self.waiting or 'no'} requests wait for them, which "
            f"is all that may. Try again in {retry} s."
        )
        headers = (b"retry-after: %d" % retry,)
        self._turn_away(exchange, error(429, text, code="queue_full", headers=headers))

    def _late(self, ticket: Ticket[Exchange]) -> Answer:
        exchange = ticket.item
        route = self._any_route()
        waited = ticket.deadline - ticket.since
        retry = self._retry_after(exchange.request.claim or ORDINARY)
        headers = (b"retry-after: %d" % retry,)
        if route is None or not route.pools:
            text = route.pending if route is not None else ""
            text = text or f"No engine of model {self._model!r} is ready."
            return error(503, text, code="no_engine_ready", headers=headers)
        text = (
            f"No engine of model {self._model!r} had room for the request within {waited:.3g} s, and "
            f"{len(self._queue)} more wait. Try again in {retry} s."
        )
        return error(503, text, code="queue_timeout", headers=headers)

    def _turn_away(self, exchange: Exchange, answer: Answer) -> None:
        # Later: this may be in the middle of another client's request, or of this one's start.
        handle = asyncio.get_running_loop().call_soon(exchange.refuse, answer)
        exchange.waits_for(handle.cancel)

    def _retry_after(self, claim: Claim) -> int:
        """Return the seconds until a request would be served at once if nobody else came, as far as can be told."""
        seconds = self._queue.drain_time(claim, self._gateway.now())
        if seconds is None:
            return self._gateway.table.retry_after
        return max(1, min(_LONGEST_RETRY, math.ceil(seconds)))
