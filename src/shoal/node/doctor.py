"""What a node tells of itself for a support bundle: everything that helps to understand it, and nothing secret.

Secrets are taken out here, before anything leaves the node. It is told to signed requests only.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from shoal.config.explain import values
from shoal.engine.gpu import driver_versions
from shoal.node.exposing import versions
from shoal.node.fleet_parts import FleetParts
from shoal.node.left_behind import certificates, engine_logs, machine_facts
from shoal.node.link import LinkError
from shoal.node.orders import Handler, RefusedError, text_of
from shoal.node.shown import Shown
from shoal.observe import logs
from shoal.observe.scrub import Scrubber, secrets_in

REPORT: Final = "/shoal/v1/report"
_EVENTS = 1000
_MOST_LINES = 5000


class Doctor:
    """Answers for the node.

    Args:
        node: its name.
        shown: what it shows anyway.
        fleet: its configuration, and its way to other nodes.
    """

    def __init__(self, node: str, shown: Shown, fleet: FleetParts) -> None:
        self._node = node
        self._shown = shown
        self._fleet = fleet

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return what answers, by method and path: a query of ``node`` and ``lines`` (of each log)."""
        return {("GET", REPORT): self._tell}

    async def _tell(self, arguments: Mapping[str, Any]) -> Any:
        named = text_of(arguments, "node")
        if named != self._node:
            member = self._shown.view().member(named)
            if member is None:
                raise RefusedError(f"there is no node {named}", 404)
            try:
                return await self._fleet.client.ask(member, "GET", REPORT, dict(arguments), timeout=20)
            except LinkError as error:
                raise RefusedError(f"node {named} does not tell it: {error}", error.status or 502) from None
        given = str(arguments.get("lines") or "")
        lines = min(_MOST_LINES, int(given)) if given.isascii() and given.isdecimal() else 500
        status, events, metrics = (
            self._shown.status(),
            self._shown.events(_EVENTS),
            await self._shown.metrics(),
        )
        return await asyncio.to_thread(self._report, status, events, metrics, lines)

    def _report(self, status: Any, events: Any, metrics: str, lines: int) -> Any:
        config = self._fleet.config
        state_dir = config.state_dir_of(self._node)
        kept = logs.recent()
        own = kept.after(0)[0][-lines:] if kept is not None else []
        report = {
            "node": self._node,
            "time": time.time(),
            "self": self._shown.self_document(),
            "versions": versions() | driver_versions(),
            "machine": machine_facts(config, self._node),
            "certificates": certificates(config, state_dir),
            "config": values(config),
            "status": status,
            "events": events,
            "logs": {"node": own} | engine_logs(state_dir, lines),
        }
        scrubber = Scrubber(secrets_in(config.model_dump(mode="json"), os.environ))
        # Metrics have a label `key`, which is the name of one and no secret.
        return scrubber.tree(report) | {"metrics": scrubber.text(metrics)}
