"""A real RabbitMQ, of Debian's package, without its service: own data, one address only. Needs psutil."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from lib.broker import Broker
from lib.debian import program

_UP = 240  # s; 8 on a quiet machine, and it has been seen to take 90 on one with ten times the work it can do
_LOOPBACK = "127.0.0.1"


class RabbitMQ(Broker):
    """See `Broker`.

    Args:
        directory: for its data and logs; made if it is missing.
        ports: for its clients, for Erlang's distribution and for Erlang's port mapper; the latter two on loopback.
        host: the address for clients.
        enter: what to put in front of its commands.

    Raises:
        MissingError: it is not installed, and cannot be.
    """

    def __init__(
        self, directory: Path, ports: Sequence[int], host: str = _LOOPBACK, enter: Sequence[str] = ()
    ) -> None:
        port, self._dist, self._epmd_port = ports
        super().__init__(directory, host, port, enter, _UP)
        self._server, self._mapper = _server(), program("epmd", "erlang-base")
        self._config = directory / "rabbitmq.conf"
        # Its user guest, the only one, is let in from loopback alone unless told otherwise.
        strangers = "" if host == _LOOPBACK else "loopback_users = none\n"
        self._config.write_text(f"listeners.tcp.default = {host}:{port}\nlog.console = false\n{strangers}")
        # Plug-ins would listen too; without any nothing has to be told where.
        (directory / "enabled_plugins").write_text("[].\n")
        cookie = directory / ".erlang.cookie"
        cookie.write_text("shoal-tests")
        cookie.chmod(0o400)
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """See `Broker`."""
        return f"amqp://{self.host}:{self.port}"

    def start(self) -> Self:
        """See `Broker`."""
        if self._epmd is None:
            self._epmd = self._spawn([self._mapper, "-port", str(self._epmd_port)], self._environment())
            self.wait(self._maps, 30, "epmd listens")
        return super().start()

    def close(self) -> None:
        """See `Broker`."""
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def _command(self) -> list[str]:
        return [self._server]

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "HOME": str(self.directory),
            "ERL_EPMD_ADDRESS": _LOOPBACK,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"shoal{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(self._config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self.directory / "feature_flags"),
        }

    def _greets(self, connection: socket.socket) -> bool:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(1) == b"\x01"  # it begins the handshake of AMQP 0-9-1

    def _maps(self) -> bool:
        """Return whether the port mapper answers; asked from where it is."""
        command = [*self._enter, self._mapper, "-port", str(self._epmd_port), "-names"]
        done = subprocess.run(command, env=self._environment(), capture_output=True, timeout=30, check=False)
        return done.returncode == 0


def _server() -> str:
    """Return the script behind Debian's wrapper, which would change to the user rabbitmq."""
    scripts = Path("/usr/lib/rabbitmq/lib")
    name = "rabbitmq_server-*/sbin/rabbitmq-server"
    if not list(scripts.glob(name)):
        program("rabbitmq-server", "rabbitmq-server")
    return str(max(scripts.glob(name)))
