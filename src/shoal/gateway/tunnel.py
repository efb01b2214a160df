"""The engine's side of a connection that has changed its protocol: bytes both ways, none of them looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.gateway.client import ClientConnection
    from shoal.gateway.exchange import Exchange


class TunnelEnd(asyncio.Protocol):
    """Takes the place of an engine connection's protocol when the engine has answered 101.

    The client's connection keeps its own protocol, and with it its limits: one that does not read makes the engine
    wait, and is cut off after `idle_timeout`.

    Args:
        exchange: what the engine sends goes to it.
        client: made to wait while the engine does not read.
    """

    __slots__ = ("_client", "_exchange")

    def __init__(self, exchange: Exchange, client: ClientConnection) -> None:
        self._exchange = exchange
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Pass on what the engine sends."""
        self._exchange.on_tunnel_data(data)

    def pause_writing(self) -> None:
        """The engine does not keep up: take nothing more from the client."""
        self._client.pause_reading()

    def resume_writing(self) -> None:
        """The engine has caught up."""
        self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's side, too."""
        self._exchange.on_tunnel_closed()
