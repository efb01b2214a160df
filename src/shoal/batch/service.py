"""The batches of a node: all parts together, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route

from shoal.batch.api import Api
from shoal.batch.channel import Channel
from shoal.batch.cluster import Cluster
from shoal.batch.counts import BatchCounts, counts
from shoal.batch.desk import Desk
from shoal.batch.guard import Guard
from shoal.batch.guard import Settings as GuardSettings
from shoal.batch.library import Library
from shoal.batch.peers import peer_app
from shoal.batch.sender import Sender
from shoal.batch.store import Store
from shoal.batch.uploads import Intake
from shoal.batch.works import Notice, Works


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says.

    Attributes:
        copies: nodes that are to have each file and batch.
        takeover_after: seconds an owner must be lost before its batches are taken over.
        repair_after: seconds a holder must be lost before another node gets its copies.
        max_file: bytes a file may have.
        max_line: bytes a line of a batch's input may have.
    """

    copies: int
    takeover_after: float
    repair_after: float
    max_file: int
    max_line: int


class Batches:
    """Files and batches of one node.

    Args:
        directory: for what is kept.
        settings: what the configuration says.
        cluster: returns the nodes as they are now.
        channel: to the other nodes.
        sender: to this node's gateway.
        room: returns how many requests this node's batches may have in flight.
        notice: told what people should know, with its level.
    """

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        *,
        cluster: Callable[[], Cluster],
        channel: Channel,
        sender: Sender,
        room: Callable[[], int],
        notice: Notice,
    ) -> None:
        self._channel = channel
        self._sender = sender
        self._store = store = Store(directory)
        self._library = library = Library(store, channel, cluster)
        self._works = works = Works(library, sender.send, room, settings.max_line, notice)
        library.on_lost = works.lose
        guarded = GuardSettings(settings.copies, settings.takeover_after, settings.repair_after)
        self._guard = Guard(library, works, guarded, notice)
        desk = Desk(library, works, self._guard, settings.copies)
        self._api = Api(
            desk,
            library,
            channel,
            lambda: Intake(library, settings.copies, settings.max_file, settings.max_line),
        )
        self._watching: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """Return the routes for clients."""
        return self._api.routes()

    def peer_app(self) -> Starlette:
        """Return the application for the other nodes."""
        return peer_app(self._library, self._api)

    def start(self) -> None:
        """Begin: go on with what is not finished, as soon as it is certain that nobody else does."""
        self._watching = asyncio.create_task(self._guard.watch())

    async def stop(self) -> None:
        """Work on nothing any more; requests under way are given up, whoever goes on sends them again."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await self._guard.stop()
        await self._works.stop()
        await self._sender.close()

    async def close(self) -> None:
        """Let go of everything, after `stop`."""
        await self._channel.close()
        self._store.close()

    def counts(self) -> BatchCounts:
        """Return what metrics tell of them."""
        return counts(self._library.live.values(), self._library.executed, time.time())

    def status(self) -> list[dict[str, Any]]:
        """Return a mapping per batch that this node executes: id, status, total, completed, failed, copies."""
        return [
            {
                "id": record.id,
                "status": record.status,
                "total": record.total,
                "completed": record.completed,
                "failed": record.failed,
                "copies": list(record.holders),
            }
            for record in self._library.live.values()
        ]
