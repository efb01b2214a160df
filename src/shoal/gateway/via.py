"""The way to an engine through this node's relay, and past it while it cannot be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from shoal.gateway.pool import Pool
from shoal.gateway.upstream import UpstreamConnection

DETOUR = 3.0
"""Seconds for which a worker goes straight to an engine after the relay has cut a request off: by then the node has
said which way is the right one."""


class ViaConnection(UpstreamConnection):
    """A connection to the relay. One that is lost with a request on it has the worker go by tcp at once."""

    __slots__ = ()
    way: ClassVar[str] = ", on the way through this node's relay"

    def connection_lost(self, exc: Exception | None) -> None:
        """See `UpstreamConnection`: before the request looks for another way, there has to be one."""
        pool = self.pool
        if self.exchange is not None and isinstance(pool, ViaPool):
            pool.cut_off()
        super().connection_lost(exc)


class ViaPool(Pool):
    """Connections to one engine through the relay; to the engine itself where the relay takes none.

    Args:
        target: the engine, with `EngineTarget.via`.
        cut_off: called when the relay has cut a request off.
        more: see `Pool`.
    """

    def __init__(self, *args: Any, cut_off: Callable[[str], None], **more: Any) -> None:
        super().__init__(*args, **more)
        self._cut_off = cut_off

    def cut_off(self) -> None:
        """The relay has cut a request off."""
        self._cut_off(self.target.id)

    async def _connect(self) -> UpstreamConnection:
        connection = ViaConnection(self)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: connection, self.target.via)
        except OSError:  # the relay is being replaced
            return await super()._connect()
        return connection
