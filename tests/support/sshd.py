"""Real OpenSSH servers on loopback: each one is a "machine" to deploy to."""

import contextlib
import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lib.debian import program
from support.ports import free_ports
from support.wait import wait_until


@contextlib.contextmanager
def ssh_hosts(directory: Path, names: list[str]) -> Iterator[Path]:
    """Run an sshd for each name; yield the client configuration that knows them by these names.

    Args:
        directory: for keys, settings and logs.
        names: of the hosts.
    """
    sshd, keygen = program("/usr/sbin/sshd", "openssh-server"), program("ssh-keygen", "openssh-client")
    program("ssh", "openssh-client")
    for key in ("client", "host"):
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)]
        subprocess.run(command, check=True, timeout=60)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation wants it
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    host_key = (directory / "host.pub").read_text().strip()
    (directory / "known_hosts").write_text("".join(f"[127.0.0.1]:{p} {host_key}\n" for p in ports.values()))
    (directory / "ssh_config").write_text("".join(_client(directory, n, p) for n, p in ports.items()))
    with contextlib.ExitStack() as running:
        for name, port in ports.items():
            (directory / f"{name}.conf").write_text(_server(directory, port))
            process = subprocess.Popen(
                [sshd, "-D", "-f", str(directory / f"{name}.conf"), "-E", str(directory / f"{name}.log")],
                start_new_session=True,
            )
            running.callback(process.wait)
            running.callback(process.terminate)
        for name, port in ports.items():
            wait_until(lambda p=port: _answers(p), 20, f"the sshd of {name}")
        yield directory / "ssh_config"


def _client(directory: Path, name: str, port: int) -> str:
    return f"""Host {name}
  HostName 127.0.0.1
  Port {port}
  User {getpass.getuser()}
  IdentityFile {directory}/client
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  StrictHostKeyChecking yes
"""


def _server(directory: Path, port: int) -> str:
    # Without PAM an sshd of root lets nobody in whose account has no password.
    pam = "yes" if os.geteuid() == 0 else "no"
    return f"""Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/client.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PidFile none
UsePAM {pam}
"""


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as line:
        return line.recv(4) == b"SSH-"
    return False
