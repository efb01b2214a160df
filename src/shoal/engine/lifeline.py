"""A port that takes connections for as long as a process lives, without its doing anything for it.

The node process opens the socket and leaves it to the engine's first process as a descriptor nobody there looks at. The
kernel accepts connections for it, whatever the process is busy with (vLLM holds Python's lock for seconds while it
loads), and refuses them when the process is gone. So other nodes can tell a member of a group whose node process has
died from one that is lost. Children that were forked hold the socket, too: vLLM's end when their parent does.
"""

from __future__ import annotations

import socket

DESCRIPTOR = 3
"""Number of the socket in the engine's first process: the first after the standard ones."""

_BACKLOG = 4096
"""Connections that nobody takes; each node that watches keeps one."""


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host`, a numeric address. The caller closes it.

    Args:
        host: numeric address of this machine.
        port: one that `ports.hold` has reserved: the holder does not keep it from being listened on.

    Raises:
        OSError: the address is none of this machine, or somebody listens there.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    lifeline = socket.socket(family, kind, protocol)
    try:
        lifeline.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        lifeline.bind(address)
        lifeline.listen(_BACKLOG)
    except OSError:
        lifeline.close()
        raise
    return lifeline
