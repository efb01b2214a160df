"""The control app of a node: a small Starlette application on a unix socket behind the gateway workers.

Paths: ``/shoal/v1/self`` (who is this), ``/shoal/v1/status``, ``/shoal/v1/events`` (``?count=N``, ``?all=1``
for those of all nodes), ``/shoal/v1/explain`` (``?id=REQUEST``, of all gateways), ``/shoal/v1/keys`` (API keys and what
they have used), ``/metrics`` (this node) and ``/metrics/cluster`` (all of them). Those of files and batches come from
`shoal.batch`, orders to the fleet from `shoal.node.orders`, the web console and what it asks for from
`shoal.node.console`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from shoal.node.http import Server
from shoal.node.orders import error_body
from shoal.observe.exposition import CONTENT_TYPE


class Source(Protocol):
    """Where the control app gets what it shows."""

    def self_document(self) -> dict[str, Any]:
        """Return name, version and process id of the node."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        ...

    def events(self, count: int) -> list[dict[str, Any]]:
        """Return the last `count` events, oldest first."""
        ...

    async def all_events(self, count: int) -> list[dict[str, Any]]:
        """Return the last `count` events of all nodes that answer, oldest first, each with its ``node``."""
        ...

    async def explain(self, name: str) -> dict[str, Any]:
        """Return what the gateways of all nodes remember of requests of a name."""
        ...

    def keys(self) -> list[dict[str, Any]]:
        """Return the API keys, without anything secret, and what they have used."""
        ...

    async def metrics(self) -> str:
        """Return this node's metrics in Prometheus' text format."""
        ...

    async def cluster_metrics(self) -> str:
        """Return all nodes' metrics in the same format."""
        ...


def control_app(source: Source, more: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application that answers for `source`; `more` are routes of others."""

    async def self_(_: Request) -> Response:
        return JSONResponse(source.self_document())

    async def status(_: Request) -> Response:
        return JSONResponse(source.status())

    async def events(request: Request) -> Response:
        given = request.query_params.get("count", "")
        count = int(given) if given.isascii() and given.isdecimal() else 50
        everywhere = request.query_params.get("all") == "1"
        return JSONResponse(await source.all_events(count) if everywhere else source.events(count))

    async def explain(request: Request) -> Response:
        return JSONResponse(await source.explain(request.query_params.get("id", "")))

    async def keys(_: Request) -> Response:
        return JSONResponse(source.keys())

    async def metrics(_: Request) -> Response:
        return Response(await source.metrics(), media_type=CONTENT_TYPE)

    async def cluster_metrics(_: Request) -> Response:
        return Response(await source.cluster_metrics(), media_type=CONTENT_TYPE)

    async def failed(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        message = f"{error.detail}. Paths here: {', '.join(paths)}."
        return JSONResponse(error_body(message, error.status_code), status_code=error.status_code)

    paths: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/shoal/v1/self": self_,
        "/shoal/v1/status": status,
        "/shoal/v1/events": events,
        "/shoal/v1/explain": explain,
        "/shoal/v1/keys": keys,
        "/metrics": metrics,
        "/metrics/cluster": cluster_metrics,
    }
    return Starlette(
        routes=[*more, *(Route(path, answer, methods=["GET"]) for path, answer in paths.items())],
        exception_handlers={HTTPException: failed},
    )


class ControlServer:
    """Runs the control app on a unix socket inside the node's event loop."""

    def __init__(self, source: Source, path: Path, more: Sequence[BaseRoute] = ()) -> None:
        settings = uvicorn.Config(
            control_app(source, more), uds=str(path), log_level="warning", access_log=False, lifespan="off"
        )
        self._server = Server(settings)
        self._path = path

    async def serve(self) -> None:
        """Serve until `stop`."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)  # the socket is for this user alone
        try:
            await self._server.serve()
        finally:
            os.umask(before)
            self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask `serve` to return soon."""
        self._server.stop()
