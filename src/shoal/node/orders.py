"""HTTP endpoints that take signed requests only: what changes a node, and what nodes ask each other.

The same endpoints may be mounted in the control app, which commands reach through a unix socket or the gateway's
port, and in the link, which other nodes reach. Every request and every answer is signed (`shoal.cluster.signing`).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.cluster.signing import HEADER, NotSignedError, Signer

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes the request's JSON object (of a GET its query) and returns what to answer as JSON."""


class RefusedError(Exception):
    """A request that is understood and not done; the text says why.

    Attributes:
        status: of the HTTP answer.
    """

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status


def signed_routes(
    handlers: Mapping[tuple[str, str], Handler], signer: Signer, refused: Callable[[str], None]
) -> list[Route]:
    """Return routes for handlers.

    Args:
        handlers: by method and path.
        signer: checks requests and signs answers.
        refused: gets a sentence about each request whose signature is no good.
    """
    return [
        Route(path, _endpoint(handler, signer, refused), methods=[method])
        for (method, path), handler in handlers.items()
    ]


async def authenticated(
    request: Request, signer: Signer, refused: Callable[[str], None]
) -> tuple[str, bytes]:
    """Return the nonce and the body of a signed request.

    Raises:
        RefusedError: it is not signed as it should be.
    """
    body = await request.body()
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    try:
        return signer.check(request.headers.get(HEADER), request.method, target, body), body
    except NotSignedError as error:
        where = f" from {request.client.host}" if request.client and request.client.host else ""
        refused(f"a request{where} for {request.url.path} is refused: {error}")
        raise RefusedError(str(error), 401) from None


def error_body(message: str, status: int) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": status}}


def _endpoint(
    handler: Handler, signer: Signer, refused: Callable[[str], None]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            nonce, body = await authenticated(request, signer, refused)
        except RefusedError as error:
            return JSONResponse(error_body(str(error), error.status), error.status)
        try:
            document = await handler(_arguments(request, body))
            reply = JSONResponse(document)
        except RefusedError as error:
            reply = JSONResponse(error_body(str(error), error.status), error.status)
        reply.headers[HEADER] = signer.sign_answer(nonce, reply.status_code, bytes(reply.body))
        return reply

    return answer


def _arguments(request: Request, body: bytes) -> Mapping[str, Any]:
    if request.method == "GET":
        return dict(request.query_params)
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the body is not JSON: {error}", 400) from None
    if not isinstance(given, dict):
        raise RefusedError("the body must be a JSON object", 400)
    return given


def text_of(arguments: Mapping[str, Any], name: str) -> str:
    """Return an argument that must be text.

    Raises:
        RefusedError: it is missing, or something else.
    """
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedError(f"`{name}` is missing, or is no text", 400)
    return value
