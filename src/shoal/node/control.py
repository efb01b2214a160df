"""The control app of a node: a small Starlette application on a unix socket behind the gateway workers.

Paths: ``/shoal/v1/self`` (who is this), ``/shoal/v1/status``, ``/shoal/v1/events``, ``/shoal/v1/keys`` (API keys and
what they have used), ``/metrics`` and ``/`` (a page of text for whoever opens the port in a browser).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


class Source(Protocol):
    """Where the control app gets what it shows."""

    def self_document(self) -> dict[str, Any]:
        """Return name, version and process id of the node."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        ...

    def keys(self) -> list[dict[str, Any]]:
        """Return the API keys, without anything secret, and what they have used."""
        ...

    def metrics(self) -> bytes:
        """Return this node's metrics in Prometheus' text format."""
        ...


def control_app(source: Source) -> Starlette:
    """Return the application that answers for `source`."""

    async def self_(_: Request) -> Response:
        return JSONResponse(source.self_document())

    async def status(_: Request) -> Response:
        return JSONResponse(source.status())

    async def events(_: Request) -> Response:
        return JSONResponse(source.status()["events"])

    async def keys(_: Request) -> Response:
        return JSONResponse(source.keys())

    async def metrics(_: Request) -> Response:
        return Response(source.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def index(_: Request) -> Response:
        return PlainTextResponse(_index(source.status()))

    async def failed(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        message = f"{error.detail}. Paths here: {', '.join(paths)}."
        body = {"message": message, "type": "invalid_request_error", "param": None, "code": error.status_code}
        return JSONResponse({"error": body}, status_code=error.status_code)

    paths: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/shoal/v1/self": self_,
        "/shoal/v1/status": status,
        "/shoal/v1/events": events,
        "/shoal/v1/keys": keys,
        "/metrics": metrics,
        "/": index,
    }
    return Starlette(
        routes=[Route(path, answer, methods=["GET"]) for path, answer in paths.items()],
        exception_handlers={HTTPException: failed},
    )


def _index(status: dict[str, Any]) -> str:
    lines = [
        f"Shoal {status['version']}, cluster {status['cluster']}, node {status['node']}",
        "",
        "OpenAI-compatible API under /v1, state under /shoal/v1/status, metrics under /metrics.",
        "",
    ]
    for member in status["members"]:
        lines.append(f"{member['name']}  {member['state']}")
        lines += [f"  {e['id']}  {e['state']}  {e['detail']}".rstrip() for e in member["engines"]]
    return "\n".join(lines) + "\n"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the node's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ControlServer:
    """Runs the control app on a unix socket inside the node's event loop."""

    def __init__(self, source: Source, path: Path) -> None:
        settings = uvicorn.Config(
            control_app(source), uds=str(path), log_level="warning", access_log=False, lifespan="off"
        )
        self._server = _Server(settings)
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
        self._server.should_exit = True
