"""What a node does for the others: keeps copies, compares, and answers their clients' requests that only it can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.batch import data, wire
from shoal.batch.api import Api, error_response
from shoal.batch.errors import ApiError, disk_errors
from shoal.batch.library import Library
from shoal.batch.records import Record, batch_of, decode, is_id, supersedes, version
from shoal.batch.store import Query

_NEVER = 1 << 62  # a length that nobody has: the record has to come first


def peer_app(library: Library, api: Api) -> Starlette:
    """Return the application that the other nodes ask. Whoever reaches it is one of them."""
    return Starlette(routes=[*api.routes(), *_Peers(library).routes()])


class _Peers:
    def __init__(self, library: Library) -> None:
        self._library = library

    def routes(self) -> list[Route]:
        return [
            Route(wire.COMPARE, self._compare, methods=["POST"]),
            Route(wire.FIND, self._find, methods=["POST"]),
            Route(wire.RECORDS + "/{id}", self._record, methods=["GET"]),
            Route(wire.RECORDS + "/{id}", self._put_record, methods=["PUT"]),
            Route(wire.DATA + "/{id}", self._length, methods=["GET"]),
            Route(wire.DATA + "/{id}", self._put_data, methods=["PUT"]),
        ]

    async def _compare(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=wire.Comparison)
        return _json(await self._library.compare(asked.versions))

    async def _find(self, request: Request) -> Response:
        query = msgspec.json.decode(await request.body(), type=Query)
        return _json(await self._library.find_here(query))

    async def _record(self, request: Request) -> Response:
        record = await self._library.local(request.path_params["id"])
        return _json([] if record is None else [record])

    async def _put_record(self, request: Request) -> Response:
        record: Record = decode(await request.body())
        try:
            with disk_errors(self._library.me):
                holding = await self._library.adopt(record)
        except ApiError as error:
            return error_response(error)
        if version(holding) != version(record) and supersedes(version(holding), version(record)):
            return _json(wire.Conflict(record=holding), 409)
        return _json([])

    async def _length(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        if not is_id(file_id):
            return Response(status_code=404)
        return _json(wire.Length(await asyncio.to_thread(data.length, self._library.store.path(file_id))))

    async def _put_data(self, request: Request) -> Response:
        file_id, given = request.path_params["id"], request.query_params
        if not is_id(file_id):
            return Response(status_code=404)
        offset = int(given["offset"])
        body = await request.body()
        async with self._library.lock(batch_of(file_id) or file_id):
            conflict = await self._fence(file_id, given.get("batch"), given)
            if conflict is not None:
                return _json(conflict, 409)
            path = self._library.store.path(file_id)
            size = await asyncio.to_thread(data.length, path)
            if size < offset:
                return _json(wire.Conflict(length=size), 409)
            rest = body[size - offset :]  # what is there already is the same
            if rest:
                try:
                    size = await asyncio.to_thread(data.write_at, path, size, rest)
                except ApiError as error:
                    return error_response(error)
        return _json(wire.Length(size))

    async def _fence(self, file_id: str, batch: str | None, given: Mapping[str, str]) -> wire.Conflict | None:
        """Return why results are not taken: they are of an owner that this node does not follow (any more)."""
        governing = batch_of(file_id)
        if governing is None:
            return None
        record = await self._library.local(governing)
        if record is None or batch != governing:
            return wire.Conflict(length=_NEVER)
        theirs = int(given["generation"]), given["owner"]
        if theirs == (record.generation, record.owner):
            return None
        if supersedes(version(record), (*theirs, 0)):
            return wire.Conflict(record=record)
        return wire.Conflict(length=_NEVER)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
