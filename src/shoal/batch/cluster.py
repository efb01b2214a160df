"""The other nodes, as the batches of one node see them. Plain frozen data."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """Another node.

    Attributes:
        name: ``host:port``.
        alive: it is heard and stays.
        incarnation: another one after each start of its process.
        url: where its nodes' interface is, "" where that is not known.
        authority: of the certificate it shows there, "" without TLS.
    """

    name: str
    alive: bool
    incarnation: int = 0
    url: str = ""
    authority: str = ""


class Cluster(msgspec.Struct, frozen=True):
    """All nodes at one moment.

    Attributes:
        me: name of this node.
        isolated: it is probably this node that is cut off: take nothing over.
        peers: the other nodes.
    """

    me: str
    isolated: bool = False
    peers: tuple[Peer, ...] = ()

    def peer(self, name: str) -> Peer | None:
        """Return a node by its name."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def alive(self) -> list[Peer]:
        """Return the other nodes that can be asked."""
        return [peer for peer in self.peers if peer.alive and peer.url]

    def is_alive(self, name: str) -> bool:
        """Return whether a node is this one or can be asked."""
        if name == self.me:
            return True
        peer = self.peer(name)
        return peer is not None and peer.alive and bool(peer.url)


def candidates(cluster: Cluster, id_: str, without: Collection[str] = ()) -> list[Peer]:
    """Return the nodes that could take a copy, the first choice first: another one for each file, so that all get some.

    Args:
        cluster: the nodes.
        id_: of the file.
        without: names of nodes that have it already, or have refused it.
    """
    peers = [peer for peer in cluster.alive() if peer.name not in without]
    return sorted(peers, key=lambda peer: zlib.crc32(f"{id_} {peer.name}".encode()))


def successor(
    cluster: Cluster, holders: Sequence[str], owner: str, *, lost: Collection[str] = ()
) -> str | None:
    """Return who has to take over from a lost owner: the first of the holders that is there.

    Args:
        cluster: the nodes as this one sees them.
        holders: names of the nodes that have a copy, in the order that all of them know.
        owner: the lost one.
        lost: names of nodes that have no copy any more.
    """
    for name in holders:
        if name != owner and name not in lost and cluster.is_alive(name):
            return name
    return None
