"""Which Python to use. Runs under old Pythons too, as far back as 3.8: it is what tells them apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Tuple  # noqa: UP035 (Python 3.8)

Version = Tuple[int, int]  # noqa: UP006 (Python 3.8)

OLDEST: Version = (3, 11)
NEWEST: Version = (3, 14)  # the newest vLLM installs on
NAMES = ("python3.12", "python3.13", "python3.11", "python3.14", "python3")

MISSING = """\
Shoal needs Python 3.11 to 3.14, with its pip; this is Python {found} and no other was found on the PATH.
  Debian 12 and later, Ubuntu 24.04:  sudo apt install python3 python3-pip python3-venv
  Ubuntu 22.04:                       sudo apt install python3.11 python3.11-venv python3-pip
Then run the same command again, or name an interpreter: make PYTHON=/path/to/python3.12 ..."""

# Not first, or not at all, on the PATH of who uses a version manager.
_SYSTEM = ("/usr/local/bin", "/usr/bin")
_MUCH = 1.15  # times as fast; less may be chance

# Method calls, attributes and bytes, as in a gateway worker. The best of many short turns: others disturb some of them.
_WORK = """
from time import perf_counter
class Stream:
    __slots__ = ("sent", "start")
    def __init__(self): self.sent, self.start = 0, b"data: {"
    def take(self, data):
        if data.startswith(self.start) and not data.endswith(b"?"):
            self.sent += len(data[3:]) + data.find(b"}")
        return self.sent
def turn(take, data):
    begun = perf_counter()
    for _ in range(2000): take(data)
    return perf_counter() - begun
print(min(turn(Stream().take, b'data: {"text": "word"}') for _ in range(80)))
"""


def usable(version: Optional[Version]) -> bool:  # noqa: UP045 (Python 3.8)
    """Return whether Shoal and vLLM run on Python `version`."""
    return version is not None and OLDEST <= version <= NEWEST


def version_of(executable: str) -> Optional[Version]:  # noqa: UP045 (Python 3.8)
    """Return the version of a Python, None when it does not run (version managers leave such shims)."""
    try:
        major, minor = _said(executable, "import sys; print(*sys.version_info[:2])").split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _said(executable: str, program: str) -> str:
    """Return what a program prints when a Python runs it."""
    return subprocess.run(
        [executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def find(
    current: Version = sys.version_info[:2],
    which: Callable[[str], Optional[str]] = shutil.which,  # noqa: UP045 (Python 3.8)
    version: Callable[[str], Optional[Version]] = version_of,  # noqa: UP045 (Python 3.8)
    names: Iterable[str] = NAMES,
) -> Optional[str]:  # noqa: UP045 (Python 3.8)
    """Return the path of a usable Python: this one if it is, else one from the PATH; None without any."""
    if usable(current):
        return sys.executable
    for name in names:
        path = which(name)
        if path is not None and usable(version(path)):
            return path
    return None


def seconds_of(executable: str) -> Optional[float]:  # noqa: UP045 (Python 3.8)
    """Return how long a Python takes for some work, in seconds; None when it does not run."""
    try:
        return float(_said(executable, _WORK))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def installed(folders: Optional[Iterable[str]] = None) -> List[str]:  # noqa: UP006, UP045 (Python 3.8)
    """Return the paths of what is called like a Python here, each program once.

    Args:
        folders: where to look; those of the PATH and the system's if not given.
    """
    if folders is None:
        folders = [*os.get_exec_path(), *_SYSTEM]
    found: Dict[Path, str] = {}  # paths by what they lead to  # noqa: UP006 (Python 3.8)
    for folder in folders:
        for name in NAMES:
            path = Path(folder, name)
            if os.access(path, os.X_OK):
                found.setdefault(path.resolve(), str(path))
    return list(found.values())


def faster(
    current: str = sys.executable,
    others: Optional[Iterable[str]] = None,  # noqa: UP045 (Python 3.8)
    version: Callable[[str], Optional[Version]] = version_of,  # noqa: UP045 (Python 3.8)
    seconds: Callable[[str], Optional[float]] = seconds_of,  # noqa: UP045 (Python 3.8)
) -> Optional[Tuple[str, float]]:  # noqa: UP006, UP045 (Python 3.8)
    """Return the fastest usable Python on this machine, and how many times as fast as `current` it is.

    One that was built from source without optimisations, as version managers do if not told otherwise, takes a quarter
    longer for the same work, and a gateway half as long again. None where no other is much faster.

    Args:
        current: path of the Python to compare with.
        others: paths of others; those of `installed` if not given.
        version: tells a Python's version.
        seconds: tells how long it takes for some work.
    """
    candidates = [p for p in (installed() if others is None else others) if usable(version(p))]
    best: Dict[str, float] = {}  # seconds, by path  # noqa: UP006 (Python 3.8)
    for path in [current, *candidates] * 2:
        found = seconds(path)
        if found is not None:
            best[path] = min(found, best.get(path, found))
    if current not in best:
        return None
    fastest = min(best, key=lambda path: best[path])
    times = best[current] / best[fastest]
    return (fastest, times) if times >= _MUCH else None
