"""A carrier that stays in its process: calls go straight to this node's handler. For tests of the relay."""

from __future__ import annotations

from shoal.transport.contract import Answer, Call, Handler


class Loopback:
    """See `Carrier`.

    Args:
        handler: answers every call.

    Attributes:
        trouble: whatever it is set to.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.trouble: str | None = None

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def call(self, call: Call) -> Answer:
        """Have the own handler answer."""
        return await self._handler(call)
