"""Makes a model from a model: the same steps around every job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.optimize import environment
from shoal.optimize.output import new_directory, require_free, write_card
from shoal.optimize.source import Source, require_memory
from shoal.optimize.worker import Tell, run_job

# What a process of torch and transformers takes before there is any model.
_PROCESS = 1.0e9
# Bytes for each parameter: what is loaded, what is made of it, and what layers being worked on need.
_BYTES = {"quantize": 7.0, "prune": 10.0, "sparsify": 10.0, "distill": 22.0}
_PATHS = ("model", "teacher", "student", "text", "checkpoints")


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        job: name of a module of `shoal.optimize.jobs`.
        title: what the result is, as in "Quantised to w8a8".
        source: what it is made from.
        out: where it goes.
        given: the job's arguments, all but ``out``.
        python: interpreter to run it in; None for the environment's own.
        environment: directory of that; None for the default.
    """

    job: str
    title: str
    source: Source
    out: Path
    given: Mapping[str, Any]
    python: Path | None = None
    environment: Path | None = None


def make(order: Order, tell: Tell) -> dict[str, Any]:
    """Make it and return what the job says of it. What is wrong is told before anything is loaded or written.

    Raises:
        OptimizeError: it cannot be made. Nothing is left of it.
    """
    require_free(order.out)
    require_memory(f"to {order.job}", _PROCESS + _BYTES[order.job] * order.source.parameters)
    place = order.environment or environment.default_directory()
    python = order.python or environment.prepare(place, lambda line: tell(line, 0, 0))
    place.parent.mkdir(parents=True, exist_ok=True)
    log = place.parent / f"last-{order.job}.log"
    with new_directory(order.out) as work:
        result = run_job(python, order.job, {**order.given, "out": str(work)}, log, tell)
        # Names only: where things lie on this machine is nobody's business.
        told = {
            k: Path(v).name if k in _PATHS else v for k, v in order.given.items() if v is not None
        } | result
        write_card(work, order.out.name, order.title, order.source.path, told)
    return result
