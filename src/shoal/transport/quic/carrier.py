"""``communication.protocol: udp``: the carrier over QUIC."""

from __future__ import annotations

import contextlib
import socket
from functools import partial

from shoal.cluster.addresses import split_name
from shoal.transport.contract import Answer, Call, CarrierError, Handler
from shoal.transport.directory import Directory
from shoal.transport.messages import RelaySettings
from shoal.transport.quic.endpoint import Endpoint
from shoal.transport.quic.frames import Hello
from shoal.transport.quic.link import Link
from shoal.transport.quic.peer import Peer
from shoal.transport.quic.serving import Served


class QuicCarrier:
    """See `Carrier`.

    Args:
        settings: of the relay.
        directory: the engines there are, and with them the nodes to connect to.
        handler: has engines of this node answer.
        sock: the node's socket for QUIC.
    """

    trouble: str | None = None
    """None: what is wrong concerns one node or another, see `trouble_with`."""

    def __init__(
        self, settings: RelaySettings, directory: Directory, handler: Handler, sock: socket.socket
    ) -> None:
        self._own = Hello(settings.node, settings.incarnation)
        self._credentials = settings.credentials
        self._directory = directory
        self._handler = handler
        self._socket = sock
        self._endpoint: Endpoint | None = None
        self._peers: dict[str, Peer] = {}

    async def start(self) -> None:
        """See `Carrier`: connections to peers are made while others serve already."""
        endpoint = Endpoint(self._socket, self._credentials, self._accept)
        try:
            endpoint.start()
        except (OSError, ValueError) as error:
            raise CarrierError(f"the node's certificate cannot be used: {error}") from error
        self._endpoint = endpoint
        self._directory.watch(self._look)
        self._look()

    async def close(self) -> None:
        """See `Carrier`. Calls under way are cut: this happens when the node has none left, or is gone itself."""
        for peer in self._peers.values():
            peer.close()
        if self._endpoint is not None:
            self._endpoint.close()

    async def call(self, call: Call) -> Answer:
        """See `Carrier`."""
        node = call.engine.rpartition("/")[0]
        peer = self._peers.get(node)
        if peer is None:
            raise CarrierError(f"{node or call.engine} is no node that is known", unsent=True)
        with contextlib.suppress(ConnectionError):
            return await peer.call(call)
        raise CarrierError(f"the connection to {node} was lost")

    def trouble_with(self, node: str) -> str | None:
        """See `PerNode`."""
        peer = self._peers.get(node)
        return "" if peer is None else peer.trouble

    def _look(self) -> None:
        """Connect to the nodes that have engines now, and to no others."""
        assert self._endpoint is not None
        nodes = self._directory.nodes()
        for name in self._peers.keys() - nodes.keys():
            self._peers.pop(name).close()
        for name in nodes.keys() - self._peers.keys():
            if (parts := split_name(name)) is not None:
                self._peers[name] = Peer(name, partial(self._connect, name, parts[1]), self._own)

    def _connect(self, name: str, port: int) -> Link:
        assert self._endpoint is not None
        return self._endpoint.connect(self._directory.nodes()[name], port)

    def _accept(self, link: Link, stream_id: int) -> Served:
        return Served(link, stream_id, self._handler, self._greeted)

    def _greeted(self, hello: Hello) -> Hello:
        if (peer := self._peers.get(hello.node)) is not None:
            peer.heard(hello.incarnation)
        return self._own
