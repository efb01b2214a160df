"""What a node's control app shows: who it is, how it is, what happened, and its metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shoal import __version__
from shoal.cluster.view import View
from shoal.node.batches import NodeBatches
from shoal.node.events import Events
from shoal.node.exposing import Exposing
from shoal.node.fleet_parts import FleetParts
from shoal.node.keys import NodeKeys
from shoal.node.status import status_document
from shoal.node.watch import Externals
from shoal.node.workers import Workers


class Shown(NamedTuple):
    """The source of the control app.

    Attributes:
        node: the node's name.
        fleet: its configuration, and its way to other nodes.
        view: returns members and engines.
        event_history: what happened.
        workers: its gateway.
        externals: engines that somebody else runs.
        node_keys: API keys.
        exposing: makes its metrics.
        node_batches: files and batches.
        began: when the node process started, seconds on a steady clock.
    """

    node: str
    fleet: FleetParts
    view: Callable[[], View]
    event_history: Events
    workers: Workers
    externals: Externals
    node_keys: NodeKeys
    exposing: Exposing
    node_batches: NodeBatches
    began: float

    def self_document(self) -> dict[str, Any]:
        """Return who this is."""
        me = {"node": self.node, "cluster": self.fleet.config.cluster.name, "version": __version__}
        return me | {"pid": os.getpid()} | self.fleet.link

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return status_document(
            self.view(),
            cluster=self.fleet.config.cluster.name,
            uptime=time.monotonic() - self.began,
            events=self.event_history.last(),
            externals=self.externals.known(),
            workers=self.workers.status(),
            batches=self.node_batches.status(),
        )

    def events(self, count: int) -> list[dict[str, Any]]:
        """Return the last `count` events, oldest first."""
        return [msgspec.to_builtins(event) for event in self.event_history.last(count)]

    async def all_events(self, count: int) -> list[dict[str, Any]]:
        """Return the last `count` events of all nodes that answer, oldest first, each with its ``node``."""
        return await self.fleet.all_events(self.events(count), count)

    async def explain(self, name: str) -> dict[str, Any]:
        """Return what the gateways of all nodes remember of requests of a name."""
        return await self.fleet.explaining.everywhere(name)

    def keys(self) -> list[dict[str, Any]]:
        """Return the API keys, without anything secret, and what they have used."""
        return self.node_keys.accounts.document(self.node_keys.table)

    async def metrics(self) -> str:
        """Return this node's metrics in Prometheus' text format."""
        return await self.exposing.node()

    async def cluster_metrics(self) -> str:
        """Return all nodes' metrics in the same format."""
        return await self.exposing.cluster()
