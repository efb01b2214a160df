"""Where nodes live: each in a network namespace of its own, or all on loopback."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from benchmarks.gateway.run import free_ports

_PORT = 8000
_NOWHERE = (
    "02:00:00:00:00:01"  # a hardware address that nobody has: what is sent there is lost without a word
)


class UnavailableError(Exception):
    """A network of this kind cannot be had here; the message says why."""


class Network(Protocol):
    """The machines of a cluster.

    Attributes:
        kind: where that is, for people.
        addresses: host and port of each node.
    """

    kind: str
    addresses: Sequence[tuple[str, int]]

    def enter(self, node: int) -> list[str]:
        """Return what to put in front of a command to run it on that machine."""
        ...

    def close(self) -> None:
        """Remove everything that was made."""
        ...


class Loopback:
    """All nodes on 127.0.0.1, on ports of their own. There are no links to cut."""

    kind: str = "on loopback"

    def __init__(self, nodes: int) -> None:
        self.addresses: Sequence[tuple[str, int]] = [("127.0.0.1", port) for port in free_ports(nodes)]

    def enter(self, node: int) -> list[str]:
        """See `Network`."""
        del node
        return []

    def close(self) -> None:
        """See `Network`."""


class Namespaces:
    """Each node in a network namespace with a cable (veth) to one bridge. Clients are in the machine's own namespace.

    Names hold this process's id, so that everything can be told to be this run's. Needs root and Debian's iproute2.

    Raises:
        UnavailableError: this machine does not allow it.
    """

    kind: str = "in network namespaces"

    def __init__(self, nodes: int) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise UnavailableError("network namespaces need root, iproute2 and util-linux")
        prefix = f"10.{random.randrange(64, 255)}.{random.randrange(256)}"
        pid = os.getpid()
        self._bridge = f"sc{pid}b"
        self._names = [f"shoal-chaos-{pid}-{node}" for node in range(nodes)]
        self._links = [f"sc{pid}n{node}" for node in range(nodes)]
        self.addresses: Sequence[tuple[str, int]] = [(f"{prefix}.{n + 1}", _PORT) for n in range(nodes)]
        try:
            self._make(prefix)
        except UnavailableError:
            self.close()
            raise

    def _make(self, prefix: str) -> None:
        run_command("ip", "link", "add", self._bridge, "type", "bridge")
        run_command("ip", "address", "add", f"{prefix}.254/24", "dev", self._bridge)
        run_command("ip", "link", "set", self._bridge, "up")
        for name, link, (host, _) in zip(self._names, self._links, self.addresses, strict=True):
            run_command("ip", "netns", "add", name)
            run_command("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            run_command("ip", "link", "set", link, "master", self._bridge, "up")
            run_command("ip", "-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            run_command("ip", "-n", name, "link", "set", "eth0", "up")
            run_command("ip", "-n", name, "link", "set", "lo", "up")

    def enter(self, node: int) -> list[str]:
        """See `Network`."""
        return ["nsenter", f"--net=/run/netns/{self._names[node]}", "--"]

    def namespace(self, node: int) -> str:
        """Return the name of a machine's namespace."""
        return self._names[node]

    def plug(self, node: int, *, into: bool) -> None:
        """Put a node's cable in, or pull it."""
        run_command("ip", "link", "set", self._links[node], "up" if into else "down")

    def cut(self, source: int, target: int) -> None:
        """Lose what `source` sends to `target`; what comes back still arrives."""
        host = self.addresses[target][0]
        where = ["dev", "eth0", "nud", "permanent"]
        run_command("ip", "-n", self._names[source], "neighbour", "replace", host, "lladdr", _NOWHERE, *where)

    def mend(self, source: int, target: int) -> None:
        """End `cut`."""
        host = self.addresses[target][0]
        run_command("ip", "-n", self._names[source], "neighbour", "delete", host, "dev", "eth0", check=False)

    def throttle(self, node: int, rate: str) -> None:
        """Let no more than `rate` (as tc writes it) through a node's cable, each way; a queue of 0.4 s, then loss."""
        bucket = ["root", "tbf", "rate", rate, "burst", "4kb", "latency", "400ms"]
        run_command("tc", "qdisc", "replace", "dev", self._links[node], *bucket)
        run_command("tc", "-n", self._names[node], "qdisc", "replace", "dev", "eth0", *bucket)

    def unthrottle(self, node: int) -> None:
        """End `throttle`."""
        run_command("tc", "qdisc", "delete", "dev", self._links[node], "root", check=False)
        run_command("tc", "-n", self._names[node], "qdisc", "delete", "dev", "eth0", "root", check=False)

    def close(self) -> None:
        """See `Network`."""
        for link in (*self._links, self._bridge):
            run_command("ip", "link", "delete", link, check=False)
        for name in self._names:
            run_command("ip", "netns", "delete", name, check=False)


def run_command(*command: str, check: bool = True) -> None:
    """Run a command. Raises `UnavailableError` if it fails and that is to be checked."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise UnavailableError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def make(nodes: int, kind: str = "auto") -> tuple[Network, str]:
    """Return machines, and why they are not namespaces if they are not.

    Args:
        nodes: how many.
        kind: ``auto``, ``namespaces`` or ``loopback``.

    Raises:
        UnavailableError: namespaces were demanded and cannot be had.
    """
    if kind == "loopback":
        return Loopback(nodes), "asked for loopback"
    try:
        return Namespaces(nodes), ""
    except UnavailableError as error:
        if kind == "namespaces":
            raise
        return Loopback(nodes), str(error)
