"""Which Python to use. Runs under old Pythons too, as far back as 3.8: it is what tells them apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Callable, Iterable, Optional, Tuple  # noqa: UP035 (Python 3.8)

Version = Tuple[int, int]  # noqa: UP006 (Python 3.8)

OLDEST: Version = (3, 11)
NEWEST: Version = (3, 14)  # the newest vLLM installs on

MISSING = """\
Shoal needs Python 3.11 to 3.14, with its pip; this is Python {found} and no other was found on the PATH.
  Debian 12 and later, Ubuntu 24.04:  sudo apt install python3 python3-pip python3-venv
  Ubuntu 22.04:                       sudo apt install python3.11 python3.11-venv python3-pip
Then run the same command again, or name an interpreter: make PYTHON=/path/to/python3.12 ..."""


def usable(version: Optional[Version]) -> bool:  # noqa: UP045 (Python 3.8)
    """Return whether Shoal and vLLM run on Python `version`."""
    return version is not None and OLDEST <= version <= NEWEST


def version_of(executable: str) -> Optional[Version]:  # noqa: UP045 (Python 3.8)
    """Return the version of a Python, None when it does not run (version managers leave such shims)."""
    program = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True
        )
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def find(
    current: Version = sys.version_info[:2],
    which: Callable[[str], Optional[str]] = shutil.which,  # noqa: UP045 (Python 3.8)
    version: Callable[[str], Optional[Version]] = version_of,  # noqa: UP045 (Python 3.8)
    names: Iterable[str] = ("python3.12", "python3.13", "python3.11", "python3.14", "python3"),
) -> Optional[str]:  # noqa: UP045 (Python 3.8)
    """Return the path of a usable Python: this one if it is, else one from the PATH; None without any."""
    if usable(current):
        return sys.executable
    for name in names:
        path = which(name)
        if path is not None and usable(version(path)):
            return path
    return None
