"""Tells systemd how the node is: ready, alive, stopping, and a line for `systemctl status`.

The protocol is sd_notify(3): datagrams of ``NAME=VALUE`` lines to the unix socket that ``NOTIFY_SOCKET`` names. Without
that variable, so without systemd, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from shoal.cluster.view import EngineState, MemberState, View


class Notify:
    """The node's line to the service manager."""

    def __init__(
        self,
        env: MutableMapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        pid: int | None = None,
    ) -> None:
        """Take the variables that are meant for this process out of `env`: engines are not to have them.

        Args:
            env: the environment.
            clock: a steady one, in seconds.
            pid: of this process, by default the real one.
        """
        address = env.pop("NOTIFY_SOCKET", "")
        microseconds, meant_for = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
        # A leading @ stands for the abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        mine = meant_for in ("", str(os.getpid() if pid is None else pid))
        # Half the time-out, as sd_watchdog_enabled(3) recommends. Seconds; None without a watchdog.
        self._interval = int(microseconds) / 2e6 if microseconds.isdecimal() and mine else None
        self._last = clock()
        self._status = ""

    def ready(self) -> None:
        """Say that the node answers: systemd starts what comes after it."""
        self._send("READY=1")

    def stopping(self, status: str) -> None:
        """Say that the node ends on purpose, and how far it is."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def alive(self, view: View) -> None:
        """Say that the node's rules are still gone through, and what the node sees. Call it each time they were."""
        if not self._address:
            return
        now, status = self._clock(), summary(view)
        if self._interval is not None and now - self._last >= self._interval:
            self._last = now
            self._send("WATCHDOG=1")
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen must not keep the node from serving.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(text.encode(), self._address)


def summary(view: View) -> str:
    """Return what a node sees, in one line."""
    alive = [m for m in view.members if m.state is MemberState.ALIVE]
    engines = [e for m in alive if m.report for e in m.report.engines]
    ready = sum(e.state is EngineState.READY for e in engines)
    cut_off = ", probably cut off from the others" if view.isolated else ""
    return (
        f"{len(alive)} of {len(view.members)} nodes alive, {ready} of {len(engines)} engines ready{cut_off}"
    )
