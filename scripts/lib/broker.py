"""A message broker as a process that is started for a while and may be killed. Needs psutil."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil

_PATIENCE = 30.0  # s until an end that was asked for has come


class BrokerError(Exception):
    """A broker did not start or end; the message says what it said."""


class Broker(ABC):
    """Runs from `start` until `close`; what `kill` and `stop` leave of its data `start` goes on with.

    Args:
        directory: for its data and logs; made if it is missing.
        host: the address that it listens on, and is reached at.
        port: likewise.
        enter: what to put in front of its command, to run it in a network namespace for one.
        patience: seconds that it may take to start.
    """

    def __init__(self, directory: Path, host: str, port: int, enter: Sequence[str], patience: float) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.host = host
        self.port = port
        self._enter = enter
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, as `communication.broker.urls` wants it."""

    def start(self) -> Self:
        """Start it, and return when it takes connections.

        Raises:
            BrokerError: it does not.
            MissingError: it is not installed, and cannot be.
        """
        self._process = self._spawn(self._command(), self._environment())
        self.wait(self._up, self._patience, "takes connections")
        return self

    def kill(self) -> None:
        """End it as a loss of power would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as a restart does."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End everything."""
        self.kill()

    def processes(self) -> list[psutil.Process]:
        """Return what runs of it."""
        if self._process is None:
            return []
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Return when a condition holds.

        Raises:
            BrokerError: it has not after so many seconds.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise BrokerError(f"{type(self).__name__}: not within {seconds:g} s: {what}: {self._said()}")
            time.sleep(0.1)

    @abstractmethod
    def _command(self) -> list[str]:
        """Return its command."""

    def _environment(self) -> dict[str, str]:
        """Return its environment."""
        return dict(os.environ)

    @abstractmethod
    def _greets(self, connection: socket.socket) -> bool:
        """Return whether it does its work on a new connection. Raises OSError where it does not."""

    def _spawn(self, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.directory / "console.log").open("ab") as log:
            return subprocess.Popen(
                [*self._enter, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise BrokerError(f"{type(self).__name__} ended: {self._said()}")
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                connection.settimeout(5)
                return self._greets(connection)
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=_PATIENCE)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.wait(self._gone, _PATIENCE, "its port is free")

    def _gone(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return False
        except OSError:
            return True

    def _said(self) -> str:
        return (self.directory / "console.log").read_text(errors="replace")[-2000:]
