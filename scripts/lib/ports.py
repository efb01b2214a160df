"""Who has a port? Needs psutil."""

from __future__ import annotations

import errno
import socket

import psutil


def taken(host: str, port: int) -> str | None:
    """Return None when a node could use host:port (TCP and UDP), else who does, as the end of a sentence."""
    for kind, name in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:  # connections that ended a minute ago are no obstacle
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    return f"cannot be used: {error.strerror}"
                return f"is taken ({name}) by {_holder(port, kind)}"
    return None


def _holder(port: int, kind: socket.SocketKind) -> str:
    try:
        connections = psutil.net_connections("inet4") + psutil.net_connections("inet6")
    except psutil.Error:
        connections = []
    having = [c for c in connections if c.type == kind and c.laddr and c.laddr.port == port]
    # A connection from that port is in the way just as well, but whoever listens there is the one to tell of.
    having.sort(key=lambda connection: connection.status != psutil.CONN_LISTEN)
    for connection in having:
        if connection.pid is None:
            continue
        try:
            process = psutil.Process(connection.pid)
            command = " ".join(process.cmdline())[:100] or process.name()
            return f"process {connection.pid} of {process.username()}: {command}"
        except psutil.Error:
            continue
    return "a process of another user"
