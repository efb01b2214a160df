"""Which node of the file is this process? Found from the machine's own addresses and names."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence

import psutil

from shoal.config.hosts import is_loopback
from shoal.config.schema import Config, Node
from shoal.node.errors import StartError

Resolver = Callable[[str], Sequence[str]]


def resolve(host: str) -> list[str]:
    """Return the IP addresses `host` stands for, [] when it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def own_addresses() -> set[str]:
    """Return every IP address of this machine's interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        a.address.split("%")[0]
        for interface in psutil.net_if_addrs().values()
        for a in interface
        if a.family in families
    }


def local_nodes(config: Config, own: Iterable[str] | None = None, resolver: Resolver = resolve) -> list[Node]:
    """Return the nodes of the file that live on this machine, in the file's order."""
    mine = set(own_addresses() if own is None else own)
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}

    def is_local(node: Node) -> bool:
        if node.host.lower() in names:
            return True
        return any(a in mine or is_loopback(a) for a in resolver(node.host))

    return [n for n in config.nodes if is_local(n)]


def find_self(config: Config, wanted: str | None, port_free: Callable[[Node], bool]) -> Node:
    """Return the node this process is.

    Args:
        config: the configuration.
        wanted: ``HOST:PORT`` given by the user, None to find out.
        port_free: tells whether a node's port could be listened on.

    Raises:
        StartError: no node of the file, or more than one, could be this machine.
    """
    listed = ", ".join(n.name for n in config.nodes)
    if wanted is not None:
        node = config.node(wanted)
        if node is None:
            raise StartError(f"--node {wanted}: the file has no such node. It names: {listed}.")
        return node
    local = local_nodes(config)
    if not local:
        own = ", ".join(sorted(a for a in own_addresses() if not is_loopback(a))) or "only loopback"
        raise StartError(
            f"this machine is none of the nodes in the file ({listed}): its addresses are {own}, its name is "
            f"{socket.gethostname()}. Add it to `nodes`, or say which one it is with --node HOST:PORT."
        )
    if len(local) == 1:
        return local[0]
    free = [n for n in local if port_free(n)]
    if len(free) == 1:
        return free[0]
    names = ", ".join(n.name for n in local)
    if not free:
        raise StartError(
            f"nodes {names} are on this machine and the ports of all are taken: do they run already?"
        )
    raise StartError(
        f"several nodes of the file are on this machine ({names}): say which one this is with --node "
        f"{free[0].name}, or start all of them with --local."
    )


def listen_address(node: Node, resolver: Resolver = resolve) -> str:
    """Return the address to listen on: ``bind``, else the node's own address, else all addresses.

    A name that resolves to none of this machine's addresses (NAT, a cloud's public address) listens on all.
    """
    if node.bind:
        return node.bind
    mine = own_addresses()
    addresses = resolver(node.host)
    for address in addresses:
        if address in mine or is_loopback(address):
            return address
    return "0.0.0.0"


def advertised_address(node: Node, resolver: Resolver = resolve) -> str:
    """Return the address other nodes reach this node's engines at: numeric where its name resolves."""
    return next(iter(resolver(node.host)), node.host)
