"""Other machines, reached with the OpenSSH client: what it can reach, and as whom, is up to the user's own settings.

Agents, jump hosts, ``~/.ssh/config``, hardware keys, Kerberos and known hosts work as in the user's terminal
(docs/decisions/0028). One connection per machine is opened and shared by all calls.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from shoal.deploy import agent

LOCAL = "local"
"""Destination that stands for this machine, without SSH."""

# Reads the agent's source, whose length is its argument, from standard input; the request follows.
_BOOT = "import sys;exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'shoal-deploy','exec'))"
_CHUNK = 1 << 20
_SSH_FAILED = 255  # exit status of ssh for failures of its own


class MachineError(Exception):
    """A machine cannot be reached, or cannot do what it was asked to; the text says why and what helps."""


class Machine:
    """One machine, by its SSH destination."""

    def __init__(
        self,
        destination: str,
        options: Sequence[str],
        control: Path,
        *,
        python: str = "python3",
        sudo: bool = False,
    ) -> None:
        """Prepare to reach a machine.

        Args:
            destination: of ssh: ``host``, ``user@host``, a name of ``~/.ssh/config``; `LOCAL` for this machine.
            options: further arguments of ssh.
            control: directory for the sockets of shared connections, with a short path.
            python: interpreter there.
            sudo: become root there.
        """
        self.destination = destination
        self._ssh = [
            *("ssh", *options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
            *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={control}/%C", "-o", "ControlPersist=120"),
        ]
        self._python = ["sudo", "-n", python] if sudo else [python]

    def call(self, request: Mapping[str, Any], files: Sequence[tuple[str, Path | bytes]] = ()) -> Any:
        """Have the machine do something and return what it answers.

        Args:
            request: what to do, see `shoal.deploy.agent`.
            files: names and contents of files that go with it.

        Raises:
            MachineError: it cannot be reached, or cannot do it.
        """
        source = Path(agent.__file__).read_bytes()
        sized = [(name, content, _size(content)) for name, content in files]
        listed = [{"name": name, "size": size} for name, _, size in sized]
        head = json.dumps({**request, "files": listed}).encode() + b"\n"
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                self._command(len(source)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            # Who ends early has said why: that is read below.
            with contextlib.suppress(BrokenPipeError), process.stdin as out:
                out.write(source + head)
                for _, content, _ in sized:
                    _send(out, content)
            answer = process.stdout.read()
            status = process.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        return self._understood(answer, status, said)

    def close(self) -> None:
        """End the shared connection."""
        if self.destination != LOCAL:
            subprocess.run(
                [*self._ssh, "-O", "exit", self.destination], capture_output=True, check=False, timeout=30
            )

    def _command(self, length: int) -> list[str]:
        boot = [*self._python, "-c", _BOOT, str(length)]
        return boot if self.destination == LOCAL else [*self._ssh, self.destination, "--", shlex.join(boot)]

    def _understood(self, answer: bytes, status: int, said: str) -> Any:
        try:
            # What a shell's profile prints comes before.
            found = json.loads(answer.splitlines()[-1])
        except (IndexError, ValueError):
            raise MachineError(self._unreached(status, said)) from None
        if "error" in found:
            raise MachineError(found["error"])
        return found["ok"]

    def _unreached(self, status: int, said: str) -> str:
        if status == _SSH_FAILED:
            hint = f"`ssh {self.destination}` must work without a question: a key in the agent, a known host"
            return f"it cannot be reached over SSH: {said or 'no reason given'}. {hint}"
        if "sudo" in said:
            return f"{said}. --sudo needs a sudo that asks for no password, or log in as root"
        if "python3" in said:
            return f"{said}. It needs python3 on the PATH of non-interactive logins, or --python"
        return f"the command there ended with status {status}: {said[-1000:] or 'it said nothing'}"


@contextlib.contextmanager
def machines(
    destinations: Sequence[str], options: Sequence[str], *, python: str | None = None, sudo: bool = False
) -> Iterator[dict[str, Machine]]:
    """Yield machines by their destinations; their connections are ended in the end."""
    # Under /tmp whatever TMPDIR says: the path of a unix socket has at most 107 bytes, %C are 40 of them.
    with tempfile.TemporaryDirectory(prefix="shoal-", dir="/tmp") as control:
        found = {
            name: Machine(name, options, Path(control), python=python or "python3", sudo=sudo)
            for name in dict.fromkeys(destinations)
        }
        try:
            yield found
        finally:
            for machine in found.values():
                machine.close()


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _send(out: IO[bytes], content: Path | bytes) -> None:
    if isinstance(content, bytes):
        out.write(content)
        return
    with content.open("rb") as source:
        while chunk := source.read(_CHUNK):
            out.write(chunk)
