"""The console's files, as routes: read once, named by what is in them, so that browsers keep them for good.

``/`` is the page, asked for anew each time and mostly answered with 304; ``/console/HASH/FILE`` is everything else,
which never changes under its name. The pages may load what comes from here, and nothing else.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "console"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_PLACE = b"{{base}}"  # in the page: where the other files are
_SAFE = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FOR_GOOD = {"cache-control": "public, max-age=31536000, immutable"}


class _File(NamedTuple):
    content: bytes
    packed: bytes
    media_type: str


class Pages:
    """The files, read when the first of them is asked for."""

    @cached_property
    def _content(self) -> dict[str, bytes]:
        return {
            path.relative_to(_FOLDER).as_posix(): path.read_bytes()
            for path in sorted(_FOLDER.rglob("*"))
            if path.suffix in _TYPES
        }

    @cached_property
    def version(self) -> str:
        """Differs when a file does."""
        digest = hashlib.blake2s(digest_size=8)
        for name, content in self._content.items():
            digest.update(f"{name} {len(content)} ".encode() + content)
        return digest.hexdigest()

    @cached_property
    def _files(self) -> dict[str, _File]:
        found = {}
        for name, plain in self._content.items():
            content = plain.replace(_PLACE, f"console/{self.version}".encode())
            found[name] = _File(content, gzip.compress(content, mtime=0), _TYPES[Path(name).suffix])
        return found

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self._index, methods=["GET"]),
            Route("/console/", self._elsewhere, methods=["GET"]),
            Route("/console/{version}/{name:path}", self._file, methods=["GET"]),
        ]

    async def _index(self, request: Request) -> Response:
        tag = f'"{self.version}"'
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=_SAFE | headers)
        return _answer(request, self._files["index.html"], headers)

    async def _elsewhere(self, _: Request) -> Response:
        return RedirectResponse("../")

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("The console has no such file.\n", 404, _SAFE)
        # An older page that is still open gets what there is, and nobody keeps that.
        current = request.path_params["version"] == self.version
        return _answer(request, found, _FOR_GOOD if current else {"cache-control": "no-store"})


def _answer(request: Request, file: _File, headers: dict[str, str]) -> Response:
    headers = _SAFE | headers | {"vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(file.packed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
