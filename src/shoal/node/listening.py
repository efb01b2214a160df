"""The sockets a node listens on: one per gateway worker, among which the kernel spreads connections."""

from __future__ import annotations

import socket

from shoal.gateway.messages import BACKLOG
from shoal.node.errors import StartError


def listening_sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets that listen on the same address (SO_REUSEPORT).

    Args:
        host: numeric address.
        port: TCP port.
        count: how many.

    Raises:
        StartError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sockets
