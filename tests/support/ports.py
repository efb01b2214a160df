"""Ports for test clusters: below the ephemeral range, each given out once per test run.

Processes that test at the same time (pytest-xdist) draw from ranges of their own: a port found free may be taken
by another one before it is used.
"""

import itertools
import os
import socket

_SIZE = 1_250
_FIRST = 10_000 + _SIZE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
_next = itertools.count(os.getpid() * 37)


def _free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` ports of 127.0.0.1 free for TCP and UDP."""
    found: list[int] = []
    while len(found) < count:
        port = _FIRST + next(_next) % _SIZE
        if _free(port):
            found.append(port)
    return found
