"""Runs one job: ``python launcher.py NAME CHANNEL``, arguments as JSON on stdin, progress as JSON lines on the channel.

The interpreter need not have Shoal installed: this file makes the package it lies in importable, and nothing beside it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[2]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def _import_shoal() -> None:
    spec = importlib.util.spec_from_file_location(
        "shoal", _PACKAGE / "__init__.py", submodule_search_locations=[str(_PACKAGE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shoal"] = module
    spec.loader.exec_module(module)


def main() -> int:
    """Run the job; return its exit status."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    name, channel = sys.argv[1], os.fdopen(int(sys.argv[2]), "w")
    _import_shoal()

    def send(**said: Any) -> None:
        channel.write(json.dumps(said) + "\n")
        channel.flush()

    def report(what: str, done: int = 0, of: int = 0) -> None:
        send(what=what, done=done, of=of)

    report("loads libraries")
    job = importlib.import_module(f"shoal.optimize.jobs.{name}")
    errors = importlib.import_module("shoal.optimize.jobs.common").JobError
    try:
        result = job.run(json.load(sys.stdin), report)
    except errors as error:
        send(error=str(error))
        return 1
    send(result=result)
    return 0


if __name__ == "__main__":
    sys.path[:] = [
        entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
    ]
    sys.exit(main())
