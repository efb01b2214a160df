"""OpenAI's ``/v1/files`` and ``/v1/batches``, as routes of an application.

Reference: https://platform.openai.com/docs/api-reference/files and ``/batch``. Any node answers for all files and
batches of the cluster: it asks the others, and passes on what only another one can do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from shoal.batch import wire
from shoal.batch.channel import Channel, PeerError
from shoal.batch.desk import Caller, Desk, ElsewhereError, expires_after
from shoal.batch.errors import ApiError, DiskFullError, disk_errors
from shoal.batch.forms import Form, read_form
from shoal.batch.library import Library
from shoal.batch.records import FileRecord, Record, batch_document, file_document
from shoal.batch.store import Query
from shoal.batch.uploads import Intake

_PURPOSES = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals")
_MOST_LISTED = {"file": 10_000, "batch": 100}
_USUAL = {"file": 10_000, "batch": 20}
_PASSED = ("content-type", "content-length", "content-disposition")
_BINARY = "application/octet-stream"

Answer = Callable[[Request], Awaitable[Response]]


def error_response(error: ApiError) -> Response:
    """Return an error in the form of OpenAI's API."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    headers = {"retry-after": "5"} if error.status == 503 else {}
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


class Api:
    """The routes.

    Args:
        desk: does what clients ask for.
        library: the node's.
        channel: to the other nodes.
        intake: returns what takes a file in.
    """

    def __init__(self, desk: Desk, library: Library, channel: Channel, intake: Callable[[], Intake]) -> None:
        self._desk = desk
        self._library = library
        self._channel = channel
        self._intake = intake

    def routes(self) -> list[Route]:
        """Return the routes."""
        paths: list[tuple[str, dict[str, Answer]]] = [
            ("/v1/files", {"POST": self._upload, "GET": self._files}),
            ("/v1/files/{id}", {"GET": self._file, "DELETE": self._delete}),
            ("/v1/files/{id}/content", {"GET": self._content}),
            ("/v1/batches", {"POST": self._create, "GET": self._batches}),
            ("/v1/batches/{id}", {"GET": self._batch}),
            ("/v1/batches/{id}/cancel", {"POST": self._cancel}),
        ]
        return [
            Route(path, self._guarded(answer), methods=[method])
            for path, answers in paths
            for method, answer in answers.items()
        ]

    def _guarded(self, answer: Answer) -> Answer:
        async def guarded(request: Request) -> Response:
            try:
                with disk_errors(f"node {self._library.me}"):
                    return await answer(request)
            except ElsewhereError as error:
                return await self._pass_on(request, error.nodes)
            except ApiError as error:
                return error_response(error)
            except ClientDisconnect:
                return Response(status_code=400)

        return guarded

    async def _pass_on(self, request: Request, nodes: list[str]) -> Response:
        """Have another node answer."""
        if wire.LOCAL_HEADER not in request.headers:
            body = await request.body()
            for name in nodes:
                peer = self._library.cluster().peer(name)
                if peer is None:
                    continue
                try:
                    response = await self._channel.stream(
                        peer, request.method, _target(request), _identity(request), body
                    )
                    content = await response.aread()
                    await response.aclose()
                except (PeerError, OSError):
                    continue
                kept = {k: v for k, v in response.headers.items() if k in _PASSED}
                return Response(content, response.status_code, kept)
        text = "No node that could do this answers now; try again in a few seconds."
        return error_response(ApiError(503, text, "owner_away"))

    # -- files

    async def _upload(self, request: Request) -> Response:
        form, intake, caller = Form(), self._intake(), caller_of(request)

        def on_field(name: str, value: str) -> None:
            if name == "purpose":
                if value not in _PURPOSES:
                    text = f"`purpose` must be one of {', '.join(_PURPOSES)}."
                    raise ApiError(400, text, "invalid_purpose", "purpose")
                intake.is_for(value)

        kept = False
        try:
            intake.expect(int(request.headers.get("content-length", 0)))
            content_type = request.headers.get("content-type", "")
            await read_form(content_type, request.stream(), form, on_field, intake.write)
            if form.filename is None:
                raise ApiError(400, "The form has no field `file`.", "missing_file", "file")
            if "purpose" not in form.fields:
                raise ApiError(400, "The form has no field `purpose`.", "missing_purpose", "purpose")
            record = await intake.finish(form.filename, caller.key, _expiry(form.fields))
            kept = True
        finally:
            if not kept:
                await intake.abandon()
        return JSONResponse(file_document(record))

    async def _files(self, request: Request) -> Response:
        return await self._list(request, "file", request.query_params.get("purpose", ""))

    async def _file(self, request: Request) -> Response:
        record = await self._desk.file(request.path_params["id"], caller_of(request))
        return JSONResponse(file_document(record))

    async def _delete(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        await self._desk.delete(id_, caller_of(request))
        return JSONResponse({"id": id_, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        record = await self._desk.file(request.path_params["id"], caller_of(request))
        if self._library.me in record.holders and await self._library.has_all(record):
            path = self._library.store.path(record.id)
            return FileResponse(path, media_type=_BINARY, filename=record.filename)
        return await self._fetched(request, record)

    async def _fetched(self, request: Request, record: FileRecord) -> Response:
        """Return the content of a file that is on other nodes, as it comes from there."""
        for name in record.holders if wire.LOCAL_HEADER not in request.headers else ():
            peer = self._library.cluster().peer(name)
            if peer is None or not peer.alive:
                continue
            try:
                response = await self._channel.stream(peer, "GET", _target(request), _identity(request))
            except PeerError:
                continue
            if response.status_code == 200:
                kept = {k: v for k, v in response.headers.items() if k in _PASSED}
                return StreamingResponse(response.aiter_raw(), 200, kept)
            await response.aclose()
        text = "No node that has this file answers now; try again in a few seconds."
        raise ApiError(503, text, "holders_away")

    # -- batches

    async def _create(self, request: Request) -> Response:
        try:
            fields = msgspec.json.decode(await request.body(), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, f"The body is not a JSON object: {error}.", "invalid_body") from None
        return JSONResponse(batch_document(await self._desk.create(fields, caller_of(request))))

    async def _batches(self, request: Request) -> Response:
        return await self._list(request, "batch", "")

    async def _batch(self, request: Request) -> Response:
        record = await self._desk.batch(request.path_params["id"], caller_of(request))
        return JSONResponse(batch_document(record))

    async def _cancel(self, request: Request) -> Response:
        record = await self._desk.cancel(request.path_params["id"], caller_of(request))
        return JSONResponse(batch_document(record))

    async def _list(self, request: Request, kind: str, purpose: str) -> Response:
        given = request.query_params
        text = given.get("limit", str(_USUAL[kind]))
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
        if not 1 <= limit <= _MOST_LISTED[kind]:
            message = f"`limit` must be a number from 1 to {_MOST_LISTED[kind]}."
            raise ApiError(400, message, "invalid_limit", "limit")
        order = given.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, "`order` must be asc or desc.", "invalid_order", "order")
        query = Query(
            kind=kind,
            purpose=purpose,
            after=given.get("after", ""),
            limit=limit,
            ascending=order == "asc",
        )
        found, more = await self._desk.listing(query, caller_of(request))
        return JSONResponse(
            {
                "object": "list",
                "data": [document(record) for record in found],
                "first_id": found[0].id if found else None,
                "last_id": found[-1].id if found else None,
                "has_more": more,
            }
        )


def document(record: Record) -> dict[str, Any]:
    """Return a record as clients see it."""
    return file_document(record) if isinstance(record, FileRecord) else batch_document(record)


def caller_of(request: Request) -> Caller:
    """Return who asks, as the gateway or another node has said; whoever comes without may see everything."""
    key = request.headers.get(wire.KEY_HEADER)
    if key is None:
        return Caller()
    return Caller(key, request.headers.get(wire.ROLE_HEADER) == "admin")


def _identity(request: Request) -> dict[str, str]:
    names = (wire.KEY_HEADER, wire.ROLE_HEADER, "content-type")
    return {name: request.headers[name] for name in names if name in request.headers}


def _target(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}"


def _expiry(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    return expires_after({"anchor": anchor, "seconds": seconds})


__all__ = ["Api", "DiskFullError", "caller_of", "error_response"]
