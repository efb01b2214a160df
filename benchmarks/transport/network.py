"""Machines in namespaces whose links to the first one can be made bad, and one more for a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.chaos.network import Namespaces, UnavailableError, run_command
from benchmarks.transport.lossy import tun


class Links(Namespaces):
    """See `Namespaces`. While `bad` is entered, the first machine and each other one are joined by bad links.

    Args:
        nodes: so many are in `addresses`; there is a machine more, `broker`, which is no node.
    """

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes + 1)
        self._hosts = [host for host, _ in self.addresses]
        self.addresses = self.addresses[:nodes]
        self.broker = nodes

    def host(self, machine: int) -> str:
        """Return the address of a machine."""
        return self._hosts[machine]

    @contextmanager
    def bad(self, delay: float, loss: float, seed: int = 1) -> Iterator[None]:
        """Have what goes between the first machine and the others be late, and some of it get lost.

        Args:
            delay: seconds, each way.
            loss: share of packets, each way.
            seed: of what gets lost.

        Raises:
            UnavailableError: this machine does not allow it.
        """
        descriptors: list[int] = []
        try:
            for other in range(1, len(self._hosts)):
                descriptors += [self._end(0, other), self._end(other, 0)]
        except OSError as error:
            raise UnavailableError(f"no TUN devices here: {error}") from error
        command = [
            sys.executable,
            "-m",
            "benchmarks.transport.lossy",
            "--fds",
            ",".join(map(str, descriptors)),
        ]
        process = subprocess.Popen(
            [*command, "--delay", str(delay), "--loss", str(loss), "--seed", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()  # with it the devices go, and with them the routes
            process.wait(timeout=10)

    def _end(self, here: int, there: int) -> int:
        """Return the descriptor of a device on the machine `here` that leads to `there`."""
        name = f"tun{os.getpid() % 100000}{here}{there}"
        descriptor = tun(name)
        namespace = self.namespace(here)
        run_command("ip", "link", "set", name, "netns", namespace)
        run_command("ip", "-n", namespace, "link", "set", name, "up", "mtu", "1500")
        run_command("ip", "-n", namespace, "route", "replace", f"{self._hosts[there]}/32", "dev", name)
        return descriptor
