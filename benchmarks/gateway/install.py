"""Gets what the benchmark runs: compiled from C, from Debian, from PyPI. Kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lib.pip import Pip, PipError, unfinished
from lib.progress import Step
from setup_env import CONSTRAINTS, SetupError, create, run_logged

SOURCES = Path(__file__).parent
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian puts servers; not on every user's PATH


class UnavailableError(Exception):
    """A program cannot be had here; the message says why, in a few words."""


@dataclass(frozen=True)
class Installed:
    """A program that can be started.

    Attributes:
        path: the executable.
        version: what it says of itself.
    """

    path: Path
    version: str


Installer = Callable[[Path, TextIO, Step], Installed]
"""Installs into a cache folder, writes what tools say into a log, shows what it does; raises `UnavailableError`."""


def cache_folder() -> Path:
    """Return where everything is kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "shoal" / "bench"


def find(command: str) -> Path | None:
    """Return the path of a system program."""
    found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    return Path(found) if found else None


def apt_install(packages: Sequence[str], log: TextIO) -> None:
    """Install Debian packages.

    Raises:
        UnavailableError: this is no Debian, we may not, or apt failed.
    """
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise UnavailableError(f"not installed, and no apt-get to install {names} with")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    install = [*apt, "install", "-y", "-qq", "--no-install-recommends", *packages]
    try:
        done = run_logged([*apt, "update", "-qq"], log)
        done = run_logged(install, log) if done.returncode == 0 else done
    except FileNotFoundError as error:
        raise UnavailableError(f"needs {names}: sudo apt-get install {names}") from error
    if done.returncode != 0:
        raise UnavailableError(f"apt-get could not install {names}: sudo apt-get install {names}")


def debian(package: str, version_flag: str) -> Installer:
    """Return an installer of a server packaged by Debian whose command is named like the package."""

    def install(_: Path, log: TextIO, step: Step) -> Installed:
        path = find(package)
        if path is None:
            step.detail = lambda: "installing the Debian package"
            apt_install([package], log)
            _stop_service(package, log)
            path = find(package)
        if path is None:
            raise UnavailableError(f"the package {package} has no such command")
        said = subprocess.run(
            [str(path), version_flag], capture_output=True, text=True, timeout=30, check=False
        )
        return Installed(path, version_in(said.stdout + said.stderr))

    return install


def version_in(text: str) -> str:
    """Return the first thing in `text` that looks like a version."""
    found = re.search(r"\d+\.\d+(\.\d+)*", text)
    return found[0] if found else "unknown"


def _stop_service(package: str, log: TextIO) -> None:
    """Stop the service that Debian starts on its own with a server's package: only the program was wanted."""
    if Path("/run/systemd/system").is_dir():
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        run_logged([*root, "systemctl", "disable", "--now", package], log)


def pypi(requirement: str, command: str) -> Installer:
    """Return an installer of a package from PyPI into a virtual environment of its own.

    The newest version there is when it is installed; remove the cache folder to get a newer one later.
    """
    name = re.split(r"[\[=<>~!]", requirement)[0]

    def install(cache: Path, log: TextIO, step: Step) -> Installed:
        environment = cache / "envs" / name
        program = environment / "bin" / command
        if unfinished(environment).exists():
            shutil.rmtree(environment)
        if not program.exists():
            try:
                environment.mkdir(parents=True, exist_ok=True)
                create(environment, log)
                Pip(environment, log, CONSTRAINTS).install(step, [requirement])
            except (PipError, SetupError) as error:
                shutil.rmtree(environment, ignore_errors=True)
                reason = str(error).strip().splitlines()[-1]
                raise UnavailableError(f"pip could not install {requirement}: {reason}") from error
        if not program.exists():
            raise UnavailableError(f"{requirement} has no command {command}")
        folders = [str(p) for p in environment.glob("lib/python*/site-packages")]
        found = next(iter(importlib.metadata.distributions(name=name, path=folders)), None)
        return Installed(program, found.version if found else "unknown")

    return install


def compiled(
    name: str, cache: Path, log: TextIO, *, folder: Path = SOURCES, flags: Sequence[str] = ()
) -> Path:
    """Return the program, or whatever `flags` make of it, compiled from ``NAME.c`` of a folder, by default this one.

    Raises:
        UnavailableError: there is no C compiler, or it failed.
    """
    source = folder / f"{name}.c"
    program = cache / "bin" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if program.exists():
        return program
    compiler = find("cc") or find("gcc")
    if compiler is None:
        apt_install(["gcc", "libc6-dev"], log)
        compiler = Path("gcc")
    program.parent.mkdir(parents=True, exist_ok=True)
    part = program.with_suffix(".part")
    done = run_logged([str(compiler), "-O2", "-Wall", *flags, "-o", str(part), str(source)], log)
    if done.returncode != 0:
        raise UnavailableError(f"{source.name} does not compile: {done.stdout.strip()[:500]}")
    part.rename(program)
    return program
