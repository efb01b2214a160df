"""The environment that jobs run in: made on first use, beside vLLM's and apart from it.

llmcompressor and vLLM pin different versions of compressed-tensors (0.14 against 0.32: 0.19 against 0.17), so they
cannot share one. vLLM loads what the newer one writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO

from shoal.optimize.errors import OptimizeError

COMPRESSOR = "llmcompressor==0.14.*"
_DISK = 3  # GB for the CPU build; CUDA's is three times that
_READY = "ready"  # lies in an environment that is whole
_FAILED = ("ERROR: ", "error: ")


def requirements() -> tuple[str, ...]:
    """Return what the environment holds: llmcompressor, on the torch that is here, for the same hardware."""
    try:
        return f"torch=={metadata.version('torch')}", COMPRESSOR
    except metadata.PackageNotFoundError:
        return (COMPRESSOR,)


def default_directory() -> Path:
    """Return where the environment is kept: in the user's cache, one for each set of requirements."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    version = ".".join(map(str, sys.version_info[:2]))
    key = hashlib.blake2b(" ".join((version, *requirements())).encode(), digest_size=4).hexdigest()
    return cache / "shoal" / "optimize" / f"python{version}-{key}"


def prepare(directory: Path, tell: Callable[[str], None]) -> Path:
    """Return the Python interpreter of the environment, made now if it is not there.

    Args:
        directory: the environment's.
        tell: takes a line on what is done, again and again.

    Raises:
        OptimizeError: it cannot be made.
    """
    python = directory / "bin" / "python"
    if (directory / _READY).exists():
        return python
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory, tell) as lock:
        if (directory / _READY).exists():
            return python
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise OptimizeError(
                f"{directory} is there already and no environment that was made by this; remove it, or name another "
                "place with --environment"
            )
        free = shutil.disk_usage(directory.parent).free / 1e9
        if free < _DISK:
            raise OptimizeError(
                f"the environment for {COMPRESSOR} takes about {_DISK} GB, {free:.1f} GB are free at "
                f"{directory.parent}; make room, or name another place with --environment"
            )
        tell(f"makes an environment of its own in {directory}, this one time")
        # Beside its place, and put there whole. One of this name is what a process that was killed has left.
        work = directory.with_name(f".{directory.name}.new")
        shutil.rmtree(work, ignore_errors=True)
        try:
            _create(work, directory.with_name(f"{directory.name}.log"), lock, tell)
            work.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return python


def _create(work: Path, log: Path, lock: int, tell: Callable[[str], None]) -> None:
    with log.open("w") as out, _running([sys.executable, "-m", "venv", str(work)], lock, stdout=out) as venv:
        venv.wait()
    if venv.returncode != 0:
        raise OptimizeError(
            f"no environment could be made at {work} (see {log}); on Debian and Ubuntu this helps: "
            "sudo apt install python3-venv"
        )
    _install(work / "bin" / "python", log, lock, tell)
    (work / _READY).touch()


@contextmanager
def _running(
    command: Sequence[str], lock: int, stdout: int | IO[str] = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run a command that ends with the block, with all processes it has started: none goes on to write.

    They hold the lock as well. Where this process is killed, the next one waits for them before it begins anew.
    """
    process = subprocess.Popen(
        command,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _alone(directory: Path, tell: Callable[[str], None]) -> Iterator[int]:
    with directory.with_name(f"{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waits for another one that makes the environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _install(python: Path, log: Path, lock: int, tell: Callable[[str], None]) -> None:
    words = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    said: list[str] = []
    with log.open("a") as out, _running([*words, *requirements()], lock) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            print(line, end="", file=out, flush=True)
            said.append(line.strip())
            if line.startswith(("Collecting ", "Installing ")) or "Downloading " in line:
                tell(line.strip()[:100])
        pip.wait()
    if pip.returncode != 0:
        why = next((line for line in said if line.startswith(_FAILED)), said[-1] if said else "pip failed")
        raise OptimizeError(
            f"{COMPRESSOR} could not be installed: {why.removeprefix('ERROR: ')} (all of it: {log}). Check that a "
            "package index is reachable (`pip config list`), or name an interpreter that has it with --python"
        )
