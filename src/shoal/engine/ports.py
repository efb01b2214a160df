"""Ports for engines: chosen from a range and held until the engine listens.

An engine takes ten seconds and more from its start to its ``bind``, and several nodes on one machine choose from the
same range. So the port is held by a socket of the node process meanwhile: bound, never listening, and bound *without*
SO_REUSEADDR, which fails whenever anybody else holds or uses the port, connections in TIME_WAIT included. Only then the
option is set, and that lets exactly the sockets through that set it too, as servers do before they bind: vLLM
(``create_server_socket``), uvicorn, asyncio. Some set SO_REUSEPORT in its place (cpp-httplib, so llama.cpp), hence both
are set. Two holders keep each other out, an engine gets in. The kernel ends the reservation with the process that holds
it.
"""

from __future__ import annotations

import errno
import socket
import zlib
from types import TracebackType

_TAKEN = (errno.EADDRINUSE, errno.EACCES)  # EACCES: below net.ipv4.ip_unprivileged_port_start


class NoFreePortError(Exception):
    """Every port of the range is taken; says which range."""


class Reservation:
    """A port that nobody else will be given. Release it when the engine on it has ended.

    Attributes:
        host: numeric address.
        port: TCP port.
    """

    def __init__(self, host: str, port: int, holder: socket.socket) -> None:
        self.host = host
        self.port = port
        self._holder = holder

    def release(self) -> None:
        """Let the port go; releasing it twice does no harm."""
        self._holder.close()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


def hold(host: str, port: int) -> Reservation | None:
    """Reserve one port of `host`, a numeric address; None if somebody holds or uses it.

    Raises:
        OSError: `host` is no numeric address of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    holder = socket.socket(family, kind, protocol)
    try:
        holder.bind(address)
    except OSError as error:
        holder.close()
        if error.errno in _TAKEN:
            return None
        raise
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return Reservation(host, port, holder)


def reserve(host: str, first: int, last: int, key: str) -> Reservation:
    """Reserve a free port from `first` to `last`, both included.

    The search begins at a place that depends on `key` alone, so that an engine mostly gets the same port again.

    Args:
        host: numeric address the engine will listen on.
        first: lowest port.
        last: highest port.
        key: names the engine, such as ``127.0.0.1:8000/smollm2-0``.

    Raises:
        NoFreePortError: all are taken.
        OSError: `host` is no numeric address of this machine.
    """
    count = last - first + 1
    start = zlib.crc32(key.encode()) % count
    for step in range(count):
        if reservation := hold(host, first + (start + step) % count):
            return reservation
    raise NoFreePortError(f"no free port for {key} on {host}: all {count} from {first} to {last} are taken")
