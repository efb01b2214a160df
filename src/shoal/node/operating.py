"""What operators do to single engines while they serve: restart. Done here, or passed on to the node that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.node.engines import Engines
from shoal.node.errors import NotNowError
from shoal.node.fleet import Fleet
from shoal.node.orders import Handler, RefusedError, text_of

RESTART = "/shoal/v1/engines/restart"


class Operating:
    """The orders that concern one engine.

    Args:
        node: this node's name.
        fleet: passes orders on, and knows whether enough is left.
        engines: of this node.
    """

    def __init__(self, node: str, fleet: Fleet, engines: Engines) -> None:
        self._node = node
        self._fleet = fleet
        self._engines = engines

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what takes the orders, by method and path."""
        return {("POST", RESTART): self.restart}

    async def restart(self, arguments: Mapping[str, Any]) -> Any:
        """Restart an engine: it finishes what it runs and gets nothing new meanwhile.

        Args:
            arguments: ``node``, this one by default, ``engine``, its id there, and ``force``: true to do it though
                too few engines of its model are left meanwhile.

        Raises:
            RefusedError: it cannot be done, or should not.
        """
        engine = text_of(arguments, "engine")
        if (passed := await self._fleet.pass_on(RESTART, arguments)) is not None:
            return passed
        await self._fleet.require_floor_without(engine, force=arguments.get("force") is True)
        try:
            self._engines.restart(engine)
        except NotNowError as error:
            self._fleet.stays(engine)
            raise RefusedError(str(error), error.status) from None
        return {"node": self._node, "engine": engine, "restarts": True}
