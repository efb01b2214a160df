"""Files of models over the link: a node gives what it has, and reads what others have."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from shoal.cluster.pki import SERVER_NAME
from shoal.cluster.signing import HEADER, Signer
from shoal.models.copying import SourceError
from shoal.models.manifest import Manifest
from shoal.models.partial import PIECE, Piece
from shoal.node.orders import Handler, RefusedError, authenticated, error_body, text_of

MANIFEST, PIECES = "/shoal/v1/files/manifest", "/shoal/v1/files/piece"
_MOST_READERS = 32
_BLOCK = 1024 * 1024
_TIMEOUT = 10.0  # s without a byte


class Offer(msgspec.Struct, frozen=True):
    """A model that this node gives to others: where it is, what it is, and the digest of that."""

    directory: Path
    manifest: Manifest
    digest: str


class FileServer:
    """Gives files to other nodes.

    Args:
        offers: returns what is given, by the model's name.
        signer: checks who asks.
        refused: gets a sentence about requests without a good signature.
    """

    def __init__(
        self, offers: Callable[[], Mapping[str, Offer]], signer: Signer, refused: Callable[[str], None]
    ) -> None:
        self._offers = offers
        self._signer = signer
        self._refused = refused
        self._readers = 0

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers questions for manifests, by method and path."""
        return {("GET", MANIFEST): self._manifest}

    def routes(self) -> list[BaseRoute]:
        """Return what answers with pieces of files. Their hashes are in the manifest, whose answer is signed."""
        return [Route(PIECES, self._piece, methods=["GET"])]

    async def _manifest(self, arguments: Mapping[str, Any]) -> Any:
        return msgspec.to_builtins(self._offer(text_of(arguments, "model")).manifest)

    async def _piece(self, request: Request) -> Response:
        try:
            await authenticated(request, self._signer, self._refused)
            query = request.query_params
            offer, name = self._offer(query.get("model", "")), query.get("file", "")
            start, size = int(query.get("start", "-1")), int(query.get("size", "-1"))
            entry = offer.manifest.files.get(name)  # nothing else is ever opened
            if entry is None or start < 0 or not 0 <= size <= PIECE or start + size > entry.size:
                raise RefusedError(f"{name} has no such piece", 404)
            if self._readers >= _MOST_READERS:
                raise RefusedError("too many readers", 503)
            stream = await asyncio.to_thread((offer.directory / name).open, "rb", 0)
        except RefusedError as error:
            return JSONResponse(error_body(str(error), error.status), error.status)
        except (OSError, ValueError) as error:
            return JSONResponse(error_body(f"it cannot be read: {error}", 404), 404)
        return StreamingResponse(
            self._blocks(stream, start, size),
            headers={"content-length": str(size)},
            media_type="application/octet-stream",
        )

    async def _blocks(self, stream: IO[bytes], start: int, size: int) -> AsyncIterator[bytes]:
        self._readers += 1
        try:
            stream.seek(start)
            while size and (block := await asyncio.to_thread(stream.read, min(size, _BLOCK))):
                size -= len(block)
                yield block
        finally:
            self._readers -= 1
            stream.close()

    def _offer(self, model: str) -> Offer:
        offer = self._offers().get(model)
        if offer is None:
            raise RefusedError(f"this node has no model {model} to give", 404)
        return offer


class LinkSource:
    """Reads the files of a model from another node. To be used by threads.

    Args:
        name: the node's name.
        url: of its link.
        context: what to show and to demand, None for plain HTTP.
        signer: signs the requests.
        model: the model's name.
    """

    def __init__(
        self, name: str, url: str, context: ssl.SSLContext | None, signer: Signer, model: str
    ) -> None:
        self.name = name
        self._signer = signer
        self._model = model
        self._extensions = {"sni_hostname": SERVER_NAME} if context else {}
        self._client = httpx.Client(base_url=url, verify=context or False, timeout=_TIMEOUT, trust_env=False)

    def read(self, piece: Piece) -> Iterator[bytes]:
        """Yield the bytes of a piece.

        Raises:
            SourceError: the node does not give them.
        """
        query = {"model": self._model, "file": piece.name, "start": piece.start, "size": piece.size}
        target = f"{PIECES}?{urlencode(query)}"
        headers = {HEADER: self._signer.sign("GET", target)}
        try:
            with self._client.stream("GET", target, headers=headers, extensions=self._extensions) as reply:
                if reply.status_code != 200:
                    raise SourceError(f"{self.name} answered {reply.status_code}")
                yield from reply.iter_raw(_BLOCK)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise SourceError(f"{self.name}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Let go of its connections."""
        self._client.close()
