"""A wall for UDP: within it, what comes to a node's port from other nodes' QUIC is lost, as at a firewall."""

import contextlib
import os
import signal
from collections.abc import Iterator

import psutil

from support.cluster import Cluster


def relay_of(cluster: Cluster, index: int) -> psutil.Process | None:
    """Return the relay process of a node, None while it has none."""
    node = psutil.Process(cluster.processes[index].pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in node.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "shoal.transport" in child.cmdline():
                    return child
    return None


@contextlib.contextmanager
def silent(cluster: Cluster, index: int) -> Iterator[None]:
    """Have a node's QUIC answer nothing: to everybody else it looks as behind a wall. Heartbeats and tcp go on."""
    relay = relay_of(cluster, index)
    assert relay is not None
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(relay.pid, signal.SIGCONT)
