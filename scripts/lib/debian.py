"""Programs from Debian packages, installed when they are missing. Standard library only."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


class MissingError(Exception):
    """A program is not here and cannot be installed; the message says what to do."""


@cache
def program(name: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        MissingError: it is missing and cannot be installed.
    """
    with (Path(tempfile.gettempdir()) / f"shoal-apt-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, apt in one
        found = shutil.which(name)
        if found is None and shutil.which("apt-get"):
            root = [] if os.geteuid() == 0 else ["sudo", "-n"]
            apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq", "-y"]
            for command in (["update"], ["install", "--no-install-recommends", package]):
                subprocess.run([*apt, *command], capture_output=True, check=False, timeout=300)
            found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is needed: sudo apt-get install {package}")
    return found
