"""Ports for test clusters: below the ephemeral range, each given out once per test run."""

import itertools
import os
import socket

_FIRST, _LAST = 10_000, 19_999
_next = itertools.count(_FIRST + os.getpid() * 37 % (_LAST - _FIRST))


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
        port = _FIRST + next(_next) % (_LAST - _FIRST)
        if _free(port):
            found.append(port)
    return found
