"""Runs a job in the environment's own process, and passes on how far it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.optimize.errors import OptimizeError

Tell = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is (0: not known)."""

_LAUNCHER = Path(__file__).with_name("jobs") / "launcher.py"


def run_job(python: Path, job: str, given: Mapping[str, Any], log: Path, tell: Tell) -> dict[str, Any]:
    """Run a job to its end and return its result. The job ends with this process, whatever ends that.

    Args:
        python: interpreter that has what the job imports.
        job: name of a module of `shoal.optimize.jobs`.
        given: its arguments, as JSON can hold them.
        log: file for all that libraries print.
        tell: hears how far it is.

    Raises:
        OptimizeError: it could not do it.
    """
    reading, writing = os.pipe()
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(python), str(_LAUNCHER), job, str(writing)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env=os.environ | quiet,
        )
        os.close(writing)
        result: dict[str, Any] | None = None
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(given).encode())
            process.stdin.close()
            with os.fdopen(reading) as lines:
                for line in lines:
                    said = json.loads(line)
                    if "error" in said:
                        raise OptimizeError(said["error"])
                    if "result" in said:
                        result = said["result"]
                    else:
                        tell(said["what"], said["done"], said["of"])
            process.wait()
        finally:
            process.kill()
            process.wait()
    if result is None:
        raise OptimizeError(f"{job} failed: {_last_line(log, process.returncode)}; all it said is in {log}")
    return result


def _last_line(log: Path, status: int) -> str:
    if status == -9:
        return "it was killed, most likely for lack of memory"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit status {status}"
