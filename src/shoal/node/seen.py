"""What whoever applies a configuration sees of engines on other nodes, and its waiting for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shoal.cluster.view import EngineReport, EngineState, MemberState, View, full_id

LOOK_EVERY = 0.1
"""Seconds between two looks."""


class NotGoodError(Exception):
    """Something that was applied is not good, or cannot be gone on with; the text says what."""


class Seen:
    """Engines as heartbeats tell of them.

    Args:
        view: returns members and engines.
    """

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    def report(self, node: str, engine: str) -> EngineReport | None:
        """Return what is known of an engine, None if nothing is."""
        member = self._view().member(node)
        engines = member.report.engines if member is not None and member.report is not None else ()
        return next((e for e in engines if e.id == engine), None)

    def works(self, node: str, was: EngineReport) -> bool:
        """Return whether an engine that was seen ready is so still, and is the same process."""
        report = self.report(node, was.id)
        return report is not None and report.state is EngineState.READY and report.instance == was.instance

    def serves(self, node: str) -> bool:
        """Return whether all engines of a node are in rotation; of one that is gone nothing is waited for."""
        member = self._view().member(node)
        if member is None or member.state is not MemberState.ALIVE or member.report is None:
            return True
        if member.report.replacing:
            return False
        return all(e.state is EngineState.READY and not e.standby for e in member.report.engines)

    async def serve_again(self, node: str, settle: float, limit: float) -> bool:
        """Wait until all engines of a node are in rotation; return whether they are.

        Args:
            node: its name.
            settle: seconds until what it was told is certain to be seen here.
            limit: seconds to wait at most.
        """
        await asyncio.sleep(settle)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.serves(node):
                return True
            await asyncio.sleep(LOOK_EVERY)
        return False

    async def ready(self, node: str, engine: str, before: EngineReport | None, limit: float) -> EngineReport:
        """Return the report of a new engine when it is ready.

        Args:
            node: where it is.
            engine: its id there.
            before: what was known of the engine of that id before, None if there was none.
            limit: seconds it may take.

        Raises:
            NotGoodError: it does not become so. One failed start is enough.
        """
        end = time.monotonic() + limit
        name, restarts = full_id(node, engine), before.restarts + 1 if before else 0
        while time.monotonic() < end:
            member = self._view().member(node)
            if member is None or member.state in (MemberState.DEAD, MemberState.LEFT):
                raise NotGoodError(f"node {node} is gone")
            report = self.report(node, engine)
            if report is not None and (before is None or report.instance != before.instance):
                if report.state is EngineState.READY:
                    return report
                if report.state is EngineState.WAITING or report.restarts > restarts:
                    errors = f" ({report.errors[0]})" if report.errors else ""
                    raise NotGoodError(f"engine {name} does not start: {report.detail}{errors}")
            await asyncio.sleep(LOOK_EVERY)
        raise NotGoodError(f"engine {name} was not ready within {limit:g} s")
