"""Files and batches as a part of a node: what they need of it, and the port where other nodes ask for them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from shoal.batch.api import error_response
from shoal.batch.channel import Channel
from shoal.batch.cluster import Cluster, Peer
from shoal.batch.counts import BatchCounts
from shoal.batch.errors import ApiError
from shoal.batch.sender import Sender
from shoal.batch.service import Batches, Settings
from shoal.cluster.pki import SERVER_NAME
from shoal.cluster.view import EngineState, Interface, MemberState, View
from shoal.config import Config, Node
from shoal.engine.ports import NoFreePortError, Reservation, reserve
from shoal.node.addresses import base_url
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.http import Server, between_nodes
from shoal.node.identity import advertised_address
from shoal.node.keys import NodeKeys

_UNKNOWN_CAPACITY = 32  # requests that an engine is expected to take at once when it does not say
_FEWEST, _MOST = 8, 1024  # requests of batches in flight


class NodeBatches:
    """Files and batches of a node, and its interface for other nodes.

    Where they cannot be kept, with a full disk at the start for instance, the node serves without them and says so.

    Args:
        config: the configuration.
        node: the node of it that this process is.
        listen: numeric address it listens on.
        view: returns the current view.
        certificates: of the node.
        keys: of its gateway.
        events: gets a sentence when something happens to a batch.
        held: returns whether requests of batches are to wait.
    """

    def __init__(
        self,
        config: Config,
        node: Node,
        listen: str,
        *,
        view: Callable[[], View],
        certificates: Certificates,
        keys: NodeKeys,
        events: Events,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._node = node
        self._listen = listen
        self._view = view
        self._certificates = certificates
        self._keys = keys
        self._events = events
        self._held = held
        self._waits = False
        self._port: Reservation | None = None
        self._interface: Interface | None = None
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._batches: Batches | None = None
        self._why_not = ""

    def prepare(self) -> None:
        """Open what is kept, and reserve a port. Inside the event loop."""
        config, recovery = self._config, self._config.recovery
        settings = Settings(
            copies=recovery.backup.copies,
            takeover_after=recovery.takeover_after,
            repair_after=recovery.backup.repair_after,
            max_file=config.batch.max_file,
            max_line=config.gateway.max_body,
        )
        name = self._node.name
        channel = Channel(
            name, self._certificates.context, SERVER_NAME if self._certificates.engine else None
        )
        try:
            self._batches = Batches(
                config.state_dir_of(name) / "batch",
                settings,
                cluster=lambda: cluster_of(self._view()),
                channel=channel,
                sender=Sender(self._gateway, self._credential),
                room=self._room,
                notice=self._events.add,
            )
        except (OSError, sqlite3.Error, ApiError) as error:
            self._why_not = f"files and batches cannot be kept on node {name}: {error}"
            self._events.add(self._why_not, "error")
            return
        try:
            self._port = reserve(self._listen, *config.engines.ports, f"{name}/interface")
        except NoFreePortError as error:
            self._events.add(f"files and batches have no copies on other nodes: {error}", "warning")

    def interface(self) -> Interface | None:
        """Return where other nodes ask this one; None as long as they cannot."""
        if self._port is None or self._server is None or not self._server.started:
            return None
        if self._interface is None:  # once: a name is looked up for it, and every heartbeat says it
            tls = self._certificates.engine
            address = advertised_address(self._node)
            self._interface = Interface(address, self._port.port, tls.authority if tls else "")
        return self._interface

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes for clients; `prepare` comes first."""
        if self._batches is not None:
            return self._batches.routes()

        async def unavailable(_: Request) -> Response:
            return error_response(ApiError(503, f"Sorry: {self._why_not}.", "batches_unavailable"))

        methods = ["GET", "POST", "DELETE"]
        paths = ("/v1/files", "/v1/files/{rest:path}", "/v1/batches", "/v1/batches/{rest:path}")
        return [Route(path, unavailable, methods=methods) for path in paths]

    async def start(self) -> None:
        """Begin, once the node's gateway answers."""
        if self._batches is None:
            return
        if self._port is not None:
            settings = between_nodes(
                self._batches.peer_app(),
                self._certificates.engine,
                host=self._listen,
                port=self._port.port,
                log_level="warning",
            )
            self._server = Server(settings)
            self._serving = asyncio.create_task(self._server.serve())
        self._batches.start()

    async def stop(self) -> None:
        """Work on nothing any more; other nodes may still ask."""
        if self._batches is not None:
            await self._batches.stop()

    async def close(self) -> None:
        """Let go of everything, after `stop`."""
        if self._server is not None and self._serving is not None:
            self._server.stop(force=True)
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._serving
        if self._port is not None:
            self._port.release()
        if self._batches is not None:
            batches, self._batches = self._batches, None
            await batches.close()

    def counts(self) -> BatchCounts | None:
        """Return what metrics tell of them, None where there can be none."""
        return None if self._batches is None else self._batches.counts()

    def status(self) -> list[dict[str, Any]]:
        """Return the batches that this node executes, see `Batches.status`."""
        return [] if self._batches is None else self._batches.status()

    def _gateway(self) -> str:
        return base_url(self._listen, self._node.port, tls=self._config.gateway.tls is not None)

    def _credential(self, key: str) -> str | None:
        if self._keys.table is None:
            return None
        return f"{self._keys.agent_secret}.{key}" if key else self._keys.agent_secret

    def _room(self) -> int:
        if self._held():
            if not self._waits:
                self._events.add(
                    "batches wait: their requests go through the broker, and it is away", "warning"
                )
            self._waits = True
            return 0
        if self._waits:
            self._events.add("batches go on: the broker is back")
        self._waits = False
        if self._config.batch.max_in_flight != "auto":
            return self._config.batch.max_in_flight
        return room(self._view(), self._config.admission.batch_share)


def room(view: View, share: float) -> int:
    """Return how many batch requests keep all ready engines busy, some of them waiting for their turn.

    Args:
        view: members and engines.
        share: of an engine's capacity that batch requests get.
    """
    wanted = 0
    for member, engine in view.engines():
        if member.state is MemberState.ALIVE and engine.state is EngineState.READY and not engine.standby:
            wanted += max(1, int((engine.capacity or _UNKNOWN_CAPACITY) * share))
    return min(_MOST, max(_FEWEST, wanted + wanted // 8))


def cluster_of(view: View) -> Cluster:
    """Return the nodes of a view as batches see them."""
    peers = []
    for member in view.members:
        if member.is_self:
            continue
        report = member.report
        interface = report.interface if report else None
        peers.append(
            Peer(
                name=member.name,
                alive=member.state in (MemberState.ALIVE, MemberState.SUSPECT),
                incarnation=report.incarnation if report else 0,
                url=base_url(interface.host, interface.port, tls=bool(interface.authority))
                if interface
                else "",
                authority=interface.authority if interface else "",
            )
        )
    return Cluster(me=view.me, isolated=view.isolated, peers=tuple(peers))
