"""The console's side of the node: what its page asks for, beyond what the control app has anyway.

Paths: ``/`` and ``/console/*`` (its files), ``/shoal/v1/live`` (a stream, see `shoal.node.live`),
``/shoal/v1/requests`` (requests in flight on all nodes), and below ``/shoal/v1/console``: ``log`` (as
`shoal.node.log_reading`) and the orders, which do what operators do from a page. These need an admin key, and are never
done without one, not even where the gateway asks nobody for keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from shoal.batch.wire import KEY_HEADER, ROLE_HEADER
from shoal.cluster.view import Member, MemberState
from shoal.node.engines import Engines
from shoal.node.events import Events
from shoal.node.fleet import DRAIN, UNDRAIN
from shoal.node.fleet_parts import FleetParts
from shoal.node.link import LinkError
from shoal.node.live import Live
from shoal.node.log_reading import LOGS
from shoal.node.operating import RESTART, Operating
from shoal.node.orders import Handler, RefusedError, error_body
from shoal.node.sampling import Sampler
from shoal.node.shown import Shown
from shoal.observe.pages import Pages

LIVE, REQUESTS = "/shoal/v1/live", "/shoal/v1/requests"
_ASK_TIMEOUT = 2.0  # s that another node may take for what a page shows
_WORKER_TIMEOUT = 1.0  # s that a gateway worker may
_NO_KEY = (
    "Orders and logs need an admin key, and this gateway has none: make one with `shoal keys new NAME --admin`. "
    "The commands `shoal drain`, `shoal undrain` and `shoal logs` do without, with the cluster's secret."
)


class Around(NamedTuple):
    """What the console needs of its node.

    Attributes:
        node: the node's name.
        fleet: its way to other nodes, and the orders.
        engines: its engines.
        events: what happened.
        shown: what its control app shows.
        sampler: its look at itself.
    """

    node: str
    fleet: FleetParts
    engines: Engines
    events: Events
    shown: Shown
    sampler: Sampler


class Console:
    """What answers the console's page, and other nodes whose pages ask for something of this one."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._view = around.shown.view
        fleet = around.fleet
        self._pages = Pages()
        self._live = Live(
            around.node,
            status=around.shown.status,
            guarded=lambda: around.shown.node_keys.table is not None,
            ring=around.sampler.ring,
            events=around.events,
            view=self._view,
            client=fleet.client,
        )
        self._operating = Operating(around.node, fleet.orders, around.engines)
        orders = fleet.orders.handlers()
        self._orders: dict[str, Handler] = {
            "drain": orders["POST", DRAIN],
            "undrain": orders["POST", UNDRAIN],
            "restart": self._operating.handlers()["POST", RESTART],
        }

    def routes(self) -> list[Route]:
        """Return the routes for the control app."""
        return [
            *self._pages.routes(),
            Route(LIVE, self._stream, methods=["GET"]),
            Route(REQUESTS, self._all_requests, methods=["GET"]),
            Route("/shoal/v1/console/log", self._log, methods=["GET"]),
            Route("/shoal/v1/console/{order}", self._order, methods=["POST"]),
        ]

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers other nodes over the link, by method and path."""
        return {
            **self._live.handlers(),
            **self._operating.handlers(),
            ("GET", REQUESTS): self._own_requests,
        }

    def work(self) -> Coroutine[Any, Any, None]:
        """Return what has to run as long as the node does."""
        return self._around.sampler.run()

    def leave(self) -> None:
        """The node is about to leave: end what would hold it up."""
        self._live.end()

    # -- what pages ask

    async def _stream(self, request: Request) -> Response:
        given = request.query_params.get("after", "")
        after = int(given) if given.isascii() and given.isdecimal() else -1
        headers = {"cache-control": "no-store"}
        return StreamingResponse(self._live.stream(after), headers=headers, media_type="text/event-stream")

    async def _all_requests(self, _: Request) -> Response:
        others = [m for m in self._view().members if m.state is MemberState.ALIVE and not m.is_self]
        own, *lists = await asyncio.gather(self._own_requests({}), *map(self._requests_of, others))
        rows = [row for told in (own, *lists) for row in told]
        return JSONResponse(sorted(rows, key=lambda row: -float(row["age"])))

    async def _own_requests(self, _: Mapping[str, Any]) -> Any:
        rows = await self._around.shown.workers.open_requests(_WORKER_TIMEOUT)
        return [msgspec.to_builtins(row) | {"node": self._around.node} for row in rows]

    async def _requests_of(self, member: Member) -> Any:
        try:
            return await self._around.fleet.client.ask(member, "GET", REQUESTS, timeout=_ASK_TIMEOUT)
        except LinkError:
            return []

    async def _log(self, request: Request) -> Response:
        try:
            _require_admin(request)
            arguments = dict(request.query_params)
            return JSONResponse(await self._around.fleet.logs.handlers()["GET", LOGS](arguments))
        except RefusedError as error:
            return JSONResponse(error_body(str(error), error.status), error.status)

    async def _order(self, request: Request) -> Response:
        name = request.path_params["order"]
        try:
            handler = self._orders.get(name)
            if handler is None:
                raise RefusedError(
                    f"there is no order {name[:100]}; there are: {', '.join(self._orders)}", 404
                )
            _require_admin(request)
            try:
                arguments = msgspec.json.decode(await request.body(), type=dict[str, Any])
            except msgspec.MsgspecError as error:
                raise RefusedError(f"the body must be a JSON object: {error}", 400) from None
            named = " ".join(str(arguments[key])[:200] for key in ("node", "engine") if key in arguments)
            what = " ".join(named.split())  # one line, whatever it is
            key = request.headers.get(KEY_HEADER, "")
            self._around.events.add(f"console: API key {key} orders: {name} {what}".rstrip())
            return JSONResponse(await handler(arguments))
        except RefusedError as error:
            return JSONResponse(error_body(str(error), error.status), error.status)


def _require_admin(request: Request) -> None:
    """Raise RefusedError where no admin key has opened the way.

    The gateway says so of a key, and takes out what a client says: `shoal.gateway.access.identified`.
    """
    if request.headers.get(ROLE_HEADER) != "admin":
        raise RefusedError(_NO_KEY, 403)
