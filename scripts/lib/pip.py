"""Runs pip and turns what it prints into one short sentence. Standard library only."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from lib.progress import Step, size

_UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_FILE = re.compile(r"\s*(?:Downloading|Using cached) (\S+)(?: \(([\d.]+) (bytes|kB|MB|GB)\))?")
_RAW = re.compile(r"Progress (\d+) of (\d+)")
# Things pip says of its settings or of packages that do not concern this set-up: in the log, never shown.
_NOISE = re.compile(r"^(WARNING|DEPRECATION|NOTE|\[notice\])|^\s*$|^Progress ")


class PipError(Exception):
    """pip failed; the message holds its last lines."""


class PipOutput:
    """What pip is at, from its output line by line.

    Args:
        installed: returns how many packages the environment holds, to tell how far unpacking is.
    """

    def __init__(self, installed: Callable[[], int] = lambda: 0) -> None:
        self._installed = installed
        self._before = 0
        self._now = "looking for packages"
        self._file = ""
        self._files = 0
        self._bytes = 0.0
        self._unpacking = 0

    @property
    def unpacking(self) -> bool:
        """Whether pip has begun to write into the environment."""
        return self._unpacking > 0

    def feed(self, line: str) -> None:
        """Take one line of pip's output."""
        if found := _RAW.match(line):
            done, total = int(found[1]), int(found[2])
            share = f", {100 * done // total} %" if total else ""
            self._now = f"downloading {self._file}{share}"
        elif found := _FILE.match(line):
            self._start_file(found)
        elif line.startswith("Installing collected packages: "):
            self._unpacking = line.count(",") + 1
            self._before = self._installed()
        elif line.startswith(("  Preparing metadata", "Building wheel", "  Building")):
            self._now = "preparing the project"

    def _start_file(self, found: re.Match[str]) -> None:
        name = found[1].rsplit("/", 1)[-1]
        if name.endswith(".metadata"):
            return
        amount = float(found[2] or 0) * _UNITS.get(found[3] or "", 0)
        package = re.sub(r"-\d.*$", "", name).replace("_", "-")
        self._file = f"{package} ({size(amount)})" if amount else package
        self._files += 1
        self._bytes += amount
        self._now = f"downloading {self._file}"

    def sentence(self) -> str:
        """Return what pip is at."""
        if self._unpacking:
            done = max(0, min(self._unpacking, self._installed() - self._before))
            return f"unpacking {self._unpacking} packages, {done} done"
        if self._files > 1:
            return f"{self._now}, file {self._files}, {size(self._bytes)} in all"
        return self._now


def last_lines(text: str, count: int = 15) -> str:
    """Return the last lines of pip's output that say something."""
    lines = [line.rstrip() for line in text.splitlines() if not _NOISE.match(line)]
    return "\n".join(lines[-count:])


def unfinished(environment: Path) -> Path:
    """Return the file that lies in an environment while it is being written to.

    One that is left behind tells that the environment may hold half a package, which pip itself would not notice.
    """
    return environment / "setup.unfinished"


def run(command: Sequence[str], step: Step, output: PipOutput, record: Callable[[str], None]) -> None:
    """Run a pip command, shown as `step`; what it prints goes line by line to `output` and `record`.

    Raises:
        PipError: pip failed.
    """
    quiet = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_USER": "0",  # a user may have made --user the default, which no virtual environment takes
        "PYTHONUNBUFFERED": "1",
    }
    command = [*command, "--no-input", "--progress-bar", "raw"]
    said = [f"\n$ {' '.join(command)}\n"]
    record(said[0])
    step.detail = output.sentence
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | quiet,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.feed(line)
            if not line.startswith("Progress "):
                said.append(line)
                record(line)
    if process.returncode != 0:
        raise PipError(last_lines("".join(said[1:])))


class Pip:
    """pip of one virtual environment.

    Args:
        environment: its folder.
        log: everything pip prints goes here.
        constraints: file with the versions to take.
    """

    def __init__(self, environment: Path, log: TextIO, constraints: Path) -> None:
        self._python = environment / "bin" / "python"
        self._packages = environment / "lib"
        self._unfinished = unfinished(environment)
        self._log = log
        self._constraints = constraints

    def count(self) -> int:
        """Return how many packages are installed."""
        return sum(1 for _ in self._packages.glob("python*/site-packages/*.dist-info"))

    def install(self, step: Step, arguments: Sequence[str]) -> None:
        """Run ``pip install`` with `arguments`, shown as `step`.

        Raises:
            PipError: pip failed.
        """
        command = [str(self._python), "-m", "pip", "install", "--no-warn-script-location"]
        output = PipOutput(self.count)

        def record(line: str) -> None:
            print(line, end="", file=self._log, flush=True)
            if output.unpacking:
                self._unfinished.touch()

        run([*command, "--constraint", str(self._constraints), *arguments], step, output, record)
        self._unfinished.unlink(missing_ok=True)
