"""Servers of Starlette applications inside the node's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from shoal.engine.spec import Tls


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which are the node's business, and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State(config)
        self._ending = asyncio.Event()

    def stop(self, *, force: bool = False) -> None:
        """Have `serve` return soon; with `force`, without waiting for what is being answered."""
        self.should_exit = True
        self.force_exit = self.force_exit or force
        self._ending.set()

    async def main_loop(self) -> None:
        """Wait for the end: uvicorn's looks for it every 100 ms, and makes the ``Date`` of answers, see `_State`."""
        await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class _State(ServerState):
    """What the connections of a server share, with a ``Date`` that is made when somebody needs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._config = config
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every answer."""
        date = [(b"date", formatdate(time.time(), usegmt=True).encode())] if self._config.date_header else []
        return date + self._config.encoded_headers

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        """Leave it: uvicorn gives it no headers before it has started."""


def between_nodes(app: Starlette, tls: Tls | None, **more: Any) -> uvicorn.Config:
    """Return the settings of a server that only nodes of the cluster can use.

    Args:
        app: what answers.
        tls: certificates to show and to demand, None for plain HTTP.
        more: settings of uvicorn.
    """
    settings = uvicorn.Config(
        app,
        access_log=False,
        lifespan="off",
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=tls.ca if tls else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls else ssl.CERT_NONE,
        **more,
    )
    settings.load()
    if settings.ssl is not None:
        settings.ssl.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    return settings
